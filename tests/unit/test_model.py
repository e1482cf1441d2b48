"""Architectures, heads, target layers, and where ImageNet weights come from."""

import functools
import hashlib
import http.server
import logging
import socket
import threading
import time

import pytest
import torch
import torchvision
from narrow_resnet import NarrowResNet

from crackcam.errors import UserError
from crackcam.models import checkpoint, checks, heads, multiscale, pretrained, registry, stages, target_layers
from crackcam.models.pretrained import WeightsOrigin

pytestmark = pytest.mark.slow

# Name of the default target layer, its channels and the side of its grid at 128 pixels.
TARGETS = {
    "resnet18": ("layer4", 512, 4),
    "resnet50": ("layer4", 2048, 4),
    "vgg16": ("features.29", 512, 8),
    "alexnet": ("features.11", 256, 7),
    "mobilenet_v2": ("features", 1280, 4),
    "mobilenet_v3_small": ("features", 576, 4),
    "squeezenet1_0": ("features", 512, 7),
    "densenet121": ("features", 1024, 4),
    "efficientnet_b0": ("features", 1280, 4),
    "convnext_tiny": ("features", 768, 4),
    "googlenet": ("inception5b", 1024, 4),
    "shufflenet_v2_x0_5": ("conv5", 1024, 4),
    "mnasnet0_5": ("layers", 1280, 4),
    "regnet_y_400mf": ("trunk_output", 440, 4),
    "swin_t": ("permute", 768, 4),
}


SLOW = {"resnet50", "vgg16", "convnext_tiny", "densenet121", "googlenet", "swin_t"}  # each 3 to 8 s


@pytest.mark.parametrize("arch", [pytest.param(a, marks=[pytest.mark.torture] if a in SLOW else []) for a in TARGETS])
def test_head_and_target_layer_are_found(arch):
    torch.manual_seed(0)
    model = pretrained.build_classifier(arch, 3).eval()
    name, channels, side = TARGETS[arch]
    grids, target = target_layers.grid_layers(model, 128)
    assert target == name
    assert grids[target][:3] == (channels, side, side)
    x = torch.randn(2, 3, 128, 128)
    with heads.head_inputs(model) as seen, torch.no_grad():
        logits = model(x)
    (features,) = seen
    assert logits.shape == (2, 3)
    # A linear head put in by hand gives the linear function of the collected features: the probe is exact.
    weight, bias = torch.randn(3, features.shape[1]), torch.randn(3)
    heads.set_linear_head(model, weight, bias)
    with torch.no_grad():
        assert torch.allclose(model(x), features @ weight.T + bias, atol=1e-3, rtol=1e-3)


def test_vision_transformer_is_explained_on_its_tokens():
    import numpy as np

    from pytorch_grad_cam import AblationCAM, GradCAM

    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    torch.nn.init.normal_(model.heads.head.weight)
    (layer,) = target_layers.find_target_layers(model, 32)
    assert layer.name == "encoder.layers.encoder_layer_1.ln_1"
    x = torch.randn(2, 3, 32, 32)
    for method in (GradCAM, AblationCAM):
        heat = method(model, [layer.module], layer.reshape)(x, [0, 1])
        assert heat.shape == (2, 32, 32)
        assert np.ptp(heat) == 1
    tokens = torch.arange(2 * 17 * 16.0).reshape(2, 17, 16)
    grid = layer.reshape(tokens)
    assert grid[1, 5, 2, 3] == tokens[1, 1 + 2 * 4 + 3, 5]


def test_finding_the_layer_leaves_the_model_alone():
    model = NarrowResNet(2).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    target_layers.grid_layers(model, 64)
    assert model.training
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert not any(module._forward_hooks for module in model.modules())


def test_target_strides_are_the_same_at_another_size():
    model = NarrowResNet(2)
    assert target_layers.grid_layers(model, 256)[0]["layer4"][:3] == (64, 8, 8)


def test_unknown_layer_is_listed():
    with pytest.raises(UserError, match="no layer 'nope' with a grid; available: conv1, bn1"):
        target_layers.find_target_layers(NarrowResNet(2), 64, ["nope"])


def test_sizes_that_a_model_does_not_accept():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    assert checks.accepts_size(model, 32)
    assert not checks.accepts_size(model, 64)
    assert model.training
    with pytest.raises(UserError, match="this model does not accept 64 px inputs: "):
        target_layers.grid_layers(model, 64)


class Refusing(torch.nn.Sequential):
    """Raises a UserError, which is a ValueError."""

    def forward(self, x):
        raise UserError("as it is")


def test_a_users_error_within_a_model_is_raised_as_it_is():
    model = Refusing(torch.nn.Linear(3, 2))
    for run in (checks.accepts_size, target_layers.grid_layers):
        with pytest.raises(UserError, match="^as it is$"):
            run(model, 32)
    with pytest.raises(UserError, match="^as it is$"):
        checks.check_runs(model, 2, 32, "w.pth")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet19", "no architecture 'resnet19' in torchvision; did you mean resnet1"),
        ("#", "no architecture '#' in torchvision; there are, among others: alexnet, "),
        ("fasterrcnn_resnet50_fpn", "is a detector: it can be used and explained, but not trained here"),
        (
            "deeplabv3_resnet50",
            "^deeplabv3_resnet50 segments images: the scripts classify images; docs/how-to/explain-your-",
        ),
        (
            "r3d_18",
            "^r3d_18 classifies videos: the scripts classify images; docs/how-to/explain-your-own-network.md explains",
        ),
        ("raft_large", "^raft_large estimates optical flow, so there is no class to explain"),
        ("quantized_resnet18", "^quantized_resnet18 is quantised, .*: take the same name without quantized_"),
    ],
)
def test_architectures_that_are_none(arch, message):
    with pytest.raises(UserError, match=message):
        registry.pretrained_config(arch)


def test_detectors_are_known_by_their_name():
    assert registry.is_detector("fasterrcnn_resnet50_fpn")
    assert not registry.is_detector("resnet18")
    assert not registry.is_detector(None)


def test_what_imagenet_weights_expect():
    config = registry.pretrained_config("resnet18")
    assert config.source == "ResNet18_Weights.IMAGENET1K_V1 of torchvision"
    assert (config.preprocessing.size, config.preprocessing.resize) == (224, 256)
    assert config.classes[1] == "goldfish"


def test_a_class_that_is_masked_out_has_no_evidence():
    torch.manual_seed(0)
    model = stages.add_multiscale_head(NarrowResNet(2), 2, 64).eval()
    model.mask_out_class(0)
    assert model.class_mask.tolist() == [0, 1]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        evidence, logits = model.evidence(x), model(x)
        contributions = model.contributions(evidence)
    assert not evidence[:, 0].any()
    assert evidence[:, 1].all()
    assert (logits[:, 0] == model.bias[0]).all()
    assert torch.allclose(contributions.sum((2, 3)) + model.bias, logits)


def test_a_multiscale_head_is_taken_from_a_checkpoint_of_the_same_shapes(tmp_path):
    def model(classes):
        return stages.add_multiscale_head(NarrowResNet(classes), classes, 64)

    one, other, path = model(2), model(2), tmp_path / "w.pth"
    torch.nn.init.normal_(one.maps[0][1].weight)
    torch.save(one.state_dict(), path)
    assert pretrained.load_maps(other, path)
    assert torch.equal(one.maps[0][1].weight, other.maps[0][1].weight)
    assert not pretrained.load_maps(model(3), path)
    torch.save(one.backbone.state_dict(), path)
    assert not pretrained.load_maps(other, path)
    assert isinstance(other, multiscale.Multiscale)


# -- ImageNet weights --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A fake hub on this machine with ImageNet weights of SqueezeNet 1.1, and an empty torch cache."""
    torch.manual_seed(5)
    state = torchvision.models.squeezenet1_1().state_dict()
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save(state, folder / "plain.pth")
    digest = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()[:8]
    name = f"squeezenet1_1-{digest}.pth"
    (folder / "plain.pth").rename(folder / name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{hub.server_port}"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value

    def serve(file=name, base=address):
        object.__setattr__(weights, "url", f"{base}/{file}")  # a frozen dataclass

    before = weights.url
    yield serve, state, folder, name, tmp_path / "cache"
    object.__setattr__(weights, "url", before)
    hub.shutdown()
    hub.server_close()


def test_weights_are_downloaded_once_and_used(server):
    serve, state, folder, name, cache = server
    serve()
    model = pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items() if not k.startswith("classifier."))
    assert (cache / "hub/checkpoints" / name).is_file()
    (folder / name).unlink()
    pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)


def test_a_network_of_imagenet_is_its_weights_and_draws_none(server):
    serve, state, *_ = server
    serve()
    before = torch.get_rng_state()
    model, _ = checkpoint.load_imagenet("squeezenet1_1", torch.device("cpu"), random=False, may_download=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


def test_damaged_download_is_refused_and_not_kept(server):
    serve, _, folder, name, cache = server
    serve()
    (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    with pytest.raises(pretrained.WeightsUnavailableError, match="hash"):
        pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)
    assert not (cache / "hub/checkpoints" / name).exists()


def test_weights_that_lack_tensors(server):
    serve, state, folder, _, _ = server
    del state["features.0.weight"]
    torch.save(state, folder / "x.pth")
    digest = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()[:8]
    (folder / "x.pth").rename(folder / f"lacking-{digest}.pth")
    serve(f"lacking-{digest}.pth")
    with pytest.raises(pretrained.WeightsUnavailableError, match="lacks features.0.weight"):
        pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)


def test_missing_on_the_server(server):
    serve, *_ = server
    serve("gone-12345678.pth")
    with pytest.raises(pretrained.WeightsUnavailableError, match="404"):
        pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)


def test_silent_network_is_noticed_in_seconds(server, monkeypatch):
    """A server that takes the connection and never answers, as behind many a firewall."""
    serve, *_ = server
    monkeypatch.setattr(pretrained, "NETWORK_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        serve("silent-12345678.pth", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        with pytest.raises(pretrained.WeightsUnavailableError, match="timed out"):
            pretrained.imagenet_classifier("squeezenet1_1", 2, may_download=True)
        assert time.perf_counter() - start < 5
    assert socket.getdefaulttimeout() is None
    assert pretrained.NETWORK_TIMEOUT <= 10


def test_auto_falls_back_to_random_weights_and_warns(server, caplog, capsys):
    serve, *_ = server
    serve("gone-12345678.pth")
    with caplog.at_level(logging.INFO):
        _, origin = pretrained.initial_weights("squeezenet1_1", "auto", 2, may_download=True)
    assert origin.kind == "random"
    assert origin.random
    assert origin.label == "random weights"
    assert origin.description.startswith("random weights: ImageNet weights are not available (HTTP Error 404")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("no ImageNet weights for squeezenet1_1 (HTTP Error 404")
    assert record.getMessage().endswith("falling back to random initialisation, which trains longer")
    assert capsys.readouterr().out == ""  # torch reports a download there
    with pytest.raises(UserError, match="^no ImageNet weights for squeezenet1_1: HTTP Error 404"):
        pretrained.initial_weights("squeezenet1_1", "imagenet", 2, may_download=True)


def test_origins_of_weights(server, tmp_path):
    server[0]()
    model, origin = pretrained.initial_weights("squeezenet1_1", "auto", 2, may_download=True)
    assert origin == WeightsOrigin("imagenet", "ImageNet weights of torchvision")
    assert not origin.random
    assert pretrained.initial_weights("squeezenet1_1", "none", 2, False)[1].description == "random weights: requested"
    path = tmp_path / "own.pth"
    torch.save(model.state_dict(), path)
    other, origin = pretrained.initial_weights("squeezenet1_1", str(path), 3, may_download=False)
    assert origin == WeightsOrigin("file", f"weights of {path}")
    assert origin.label == f"weights of {path}"
    assert torch.equal(other.features[0].weight, model.features[0].weight)
    with pytest.raises(UserError, match="has another architecture: bn1.bias is missing or of another shape"):
        pretrained.initial_weights("resnet18", str(path), 2, may_download=False)
