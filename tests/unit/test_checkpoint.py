"""The checkpoint file: what it refuses, and that reading it runs no code."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.pretrained import build_classifier
from crackcam.types import ModelCard

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    card = ModelCard("squeezenet1_1", ["b", "ä ö", "10"], 64, split={"val": ["train/b/1.jpg"]})
    card.thresholds = {"gradcam": {"b": 0.1, "ä ö": 1e-9}}
    checkpoint.save(path, build_classifier("squeezenet1_1", 3), card)
    return path


def with_card(path, change):
    tensors = checkpoint.read_tensors(path)
    document = {"schema": 1, "arch": "squeezenet1_1", "classes": ["a", "b", "c"], "image_size": 64}
    document.update(change)
    save_file(tensors, path, metadata={"crackcam": json.dumps(document)})


def test_round_trip(file):
    model, card = checkpoint.load(file, CPU)
    again = file.with_name("again.safetensors")
    checkpoint.save(again, model, card)
    other, other_card = checkpoint.load(again, CPU)
    assert card == other_card
    assert card.classes == ["b", "ä ö", "10"]
    assert other_card.thresholds == {"gradcam": {"b": 0.1, "ä ö": 1e-9}}
    assert not model.training
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), other(x))


def test_buffers_that_no_file_holds(tmp_path):
    """The masks of Swin's shifted windows: made with the network, or its answers are wrong."""
    pytest.importorskip("timm")
    arch, path = "timm/swin_tiny_patch4_window7_224", tmp_path / "model.safetensors"
    network = build_classifier(arch, 2)
    assert set(dict(network.named_buffers())) - set(network.state_dict())
    checkpoint.save(path, network, ModelCard(arch, ["a", "b"], 224))
    model, _ = checkpoint.load(path, CPU)
    for name, buffer in network.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    picture = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.allclose(model(picture), network.eval()(picture), atol=1e-5)


def test_a_regnet_which_cannot_be_had_without_memory(tmp_path):
    path, network = tmp_path / "model.safetensors", build_classifier("regnet_y_400mf", 2)
    checkpoint.save(path, network, ModelCard("regnet_y_400mf", ["a", "b"], 64))
    model, _ = checkpoint.load(path, CPU)
    picture = torch.randn(1, 3, 64, 64)
    assert torch.allclose(model(picture), network.eval()(picture), atol=1e-5)
    with_card(path, {"arch": "regnet_y_400mf"})
    with pytest.raises(UserError, match="does not fit regnet_y_400mf with 3 classes"):
        checkpoint.load(path, CPU)


def test_a_card_from_before_thresholds(file):
    with_card(file, {})
    assert checkpoint.load(file, CPU)[1].thresholds == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 7}, "is of schema 7, this version reads 1: train again"),
        ({"arch": "resnet18"}, "does not fit resnet18 with 3 classes"),
        ({"arch": "resnet19"}, "no architecture 'resnet19'"),
        ({"classes": ["a", "b"]}, "does not fit squeezenet1_1 with 2 classes"),
        ({"classes": ["a", "b", "b"]}, "is damaged"),
        ({"classes": [1, 2, 3]}, "is damaged"),
        ({"image_size": "large"}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_cards_that_are_refused(file, change, message):
    with_card(file, change)
    with pytest.raises(UserError, match=message):
        checkpoint.load(file, CPU)


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.99])
def test_truncated(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="is truncated or no safetensors file"):
        checkpoint.load(file, CPU)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("a.pth", lambda p: torch.save({"fc.weight": Evil()}, p)),
        ("b.pth", lambda p: p.write_bytes(pickle.dumps(Evil()))),
        ("c.pth", lambda p: p.write_bytes(b"")),
        ("d.pth", lambda p: torch.save([1, 2], p)),
        ("e.pth", lambda p: torch.save(torch.nn.Linear(1, 1), p)),
    ):
        write(Path(name))
        with pytest.raises(UserError, match="state_dict"):
            checkpoint.load(Path(name), CPU, "resnet18", ["a", "b"])
    assert not Path("was-here").exists()


def test_names_left_by_compile_and_data_parallel(file, tmp_path):
    tensors = checkpoint.read_tensors(file)
    path = tmp_path / "plain.pth"
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module."):
        torch.save({"state_dict": {prefix + name: t for name, t in tensors.items()}}, path)
        assert checkpoint.read_tensors(path).keys() == tensors.keys()
    model, card = checkpoint.load(path, CPU, "squeezenet1_1", ["x", "y", "z"])
    assert card.classes == ["x", "y", "z"]
    assert all(torch.equal(tensors[name], t) for name, t in model.state_dict().items())


def test_what_describes_itself_takes_no_description(file):
    with pytest.raises(UserError, match="leave --arch and --classes out"):
        checkpoint.load(file, CPU, "squeezenet1_1", ["a", "b", "c"])
