"""The network: asked for weights that are not cached and for nothing else, and offline for nothing at all."""

import functools
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crackcam import runtime
from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.models import checkpoint, pretrained, registry

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No cached weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)


def detector_weights():
    return pretrained.download_weights(registry.weights_entry("fasterrcnn_resnet50_fpn"), may_download=False)


@pytest.mark.parametrize(
    ("fetch", "named"),
    [
        (functools.partial(checkpoint.load_imagenet, "vgg16", CPU, False, False), "vgg16-397923af.pth in "),
        (
            functools.partial(checkpoint.load_imagenet, "timm/mobilenetv3_small_050", CPU, False, False),
            "timm looks for them on its hub",
        ),
        (
            functools.partial(pretrained.initial_weights, "resnet18", "imagenet", 2, False),
            "resnet18-f37072fd.pth in ",
        ),
        (detector_weights, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth in "),
    ],
)
def test_offline_asks_for_nothing_and_names_the_file(no_network, empty_cache, fetch, named):
    with pytest.raises((UserError, pretrained.WeightsUnavailableError)) as error:
        fetch()
    assert "not cached, and offline forbids downloads" in str(error.value).replace("--", "")
    assert named in str(error.value)


@pytest.mark.parametrize(("value", "may"), [("1", False), ("true", False), ("0", True), ("", True)])
def test_the_hubs_own_variable_forbids_downloads_too(monkeypatch, value, may):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert RuntimeConfig().may_download == may
    assert not RuntimeConfig(offline=True).may_download


def test_offline_training_starts_from_random_weights_and_warns(no_network, empty_cache, caplog):
    _, origin = pretrained.initial_weights("squeezenet1_1", "auto", 2, may_download=False)
    assert origin.kind == "random"
    (record,) = caplog.records
    expected = "no ImageNet weights for squeezenet1_1 (not cached, and --offline forbids downloads (torchvision looks"
    assert record.getMessage().startswith(expected)


def test_cached_weights_are_used_offline(tmp_path, monkeypatch, no_network):
    """Whatever is in torch's cache."""
    file = tmp_path / "hub/checkpoints/some.pth"
    file.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def state(**_):
        return torch.hub.load_state_dict_from_url("https://example.invalid/some.pth", weights_only=True)

    weights = SimpleNamespace(url="https://example.invalid/some.pth", get_state_dict=state)
    found = pretrained.download_weights(weights, may_download=False)
    assert found["weight"].tolist() == [1, 1]


def test_what_offline_changes_is_put_back(monkeypatch):
    hub = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", hub)
    before = socket.getaddrinfo
    seen = []

    def fetch():
        with pretrained._fetching("here", may_download=False):
            seen.append(hub.HF_HUB_OFFLINE)
            socket.create_connection(("example.invalid", 443))

    with pytest.raises(pretrained.WeightsUnavailableError, match="--offline forbids downloads .here"):
        fetch()
    assert seen == [True]
    assert socket.getaddrinfo is before
    assert not hub.HF_HUB_OFFLINE


def test_one_module_alone_uses_the_network():
    """What else names a way out has to be reviewed."""
    ways = ("import socket", "urllib", "requests", "http.client", "urlopen", "import ssl", "ftplib", "smtplib")
    root = Path(runtime.__file__).parents[1]
    files = [*root.glob("*.py"), *root.glob("crackcam/**/*.py"), *root.glob("pytorch_grad_cam/**/*.py")]
    found = {f.relative_to(root).as_posix() for f in files if any(way in f.read_text("utf-8") for way in ways)}
    assert found == {"crackcam/models/pretrained.py"}
