"""What hooks, modes and autograd cannot see: fused, scripted, quantized and exported parts, and layers of no influence."""

import warnings

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, Tokens, finished, grad_cam_maps, resized, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    GuidedGradCAM,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
)
from pytorch_grad_cam.context import explanation_context


@pytest.fixture
def images():
    return small_images()


# -- fused attention --------------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """torch's own encoder, which runs as one fused operation in eval mode without autograd."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens).mean(dim=1))


def to_grid(tokens):
    return tokens.transpose(1, 2).unflatten(2, (4, 3))


@pytest.mark.parametrize(
    "layer", ["encoder.layers.1.norm1", "encoder.layers.0.norm2", "encoder.layers.1.linear2", "encoder.layers.1"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_ablation_of_a_fused_transformer_equals_plain_hooks(layer, frozen, images):
    model = Transformer().eval().requires_grad_(not frozen)
    module, kept, weights = model.get_submodule(layer), [], torch.zeros(4, 8)
    with torch.no_grad():
        handle = module.register_forward_hook(lambda m, i, o: kept.append(o))
        intact = model(images)[range(4), CLASSES]
        handle.remove()
        for channel in range(8):
            handle = module.register_forward_hook(lambda m, i, o, c=channel: o.index_fill(2, torch.tensor([c]), 0))
            weights[:, channel] = (intact - model(images)[range(4), CLASSES]) / intact.abs()
            handle.remove()
    expected = resized((weights[:, :, None, None] * to_grid(kept[0])).sum(1).relu(), (16, 12))
    assert weights.abs().max() > 1e-3
    found = AblationCAM(model, [layer], to_grid).maps(images, CLASSES, normalize=False)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_is_off_while_explaining_only(enabled, images):
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        seen = []
        with explanation_context(nn.Identity()):
            seen.append(torch.backends.mha.get_fastpath_enabled())
        with pytest.raises(ZeroDivisionError), explanation_context(nn.Identity()):
            raise ZeroDivisionError
        assert seen == [False]
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


class Bypass(nn.Module):
    """A layer that is a module only where autograd is on, or hooks are attached; otherwise its weights are read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.above, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        hooked = any(m._forward_hooks for m in self.modules())
        x = self.layer(x) if hooked else nn.functional.conv2d(x, self.layer.weight, self.layer.bias)
        return self.fc(torch.tanh(self.above(torch.tanh(x))).mean(dim=(2, 3)))


def test_a_replay_that_bypasses_the_layer_is_noticed(images):
    """Ablation then runs the whole model with hooks."""
    model, plain = Bypass().eval(), Bypass().eval()
    plain.above.register_forward_hook(lambda m, i, o: o)  # always by modules
    found, expected = (AblationCAM(m, ["layer"])(images, CLASSES) for m in (model, plain))
    assert np.allclose(found, expected, atol=1e-4)
    assert found.max() == 1


def test_weights_that_are_read_without_a_call_are_named(images):
    with pytest.raises(
        ValueError, match=r"attention.out_proj .* did not run .* choose attention \(MultiheadAttention\)"
    ):
        GradCAM(Tokens().eval(), ["attention.out_proj"])(images, CLASSES)


# -- scripted, quantized, exported ------------------------------------------------------------------------------------


class Partly(nn.Module):
    """A scripted or traced body below a layer and a head in Python."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()).eval()
        example = torch.randn(1, 3, 16, 12)
        self.body = {"plain": lambda m: m, "script": torch.jit.script, "trace": lambda m: torch.jit.trace(m, example)}[
            how
        ](body)
        self.layer, self.fc = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.layer(self.body(x))).mean(dim=(2, 3)))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_scripted_parts_are_refused_where_they_must_be_seen(how, images):
    model = Partly(how).eval()
    for explain, name in ((FullGrad(model), "FullGrad"), (GuidedBackpropReLUModel(model), "guided backpropagation")):
        with pytest.raises(ValueError, match=f"{name} must see every operation, and body is scripted or traced"):
            explain(images, CLASSES)
    with pytest.raises(ValueError, match="guided backpropagation must see"):
        GuidedGradCAM(model, ["layer"])(images, CLASSES)
    with pytest.raises(ValueError, match="body is scripted or traced, and hooks inside it do not run"):
        GradCAM(model, [getattr(model.body, "0")])(images, CLASSES)
    whole = torch.jit.trace(Partly("plain").eval(), images)
    with pytest.raises(ValueError, match="FullGrad must see every operation, and the model is scripted"):
        FullGrad(whole)(images, CLASSES)


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("cam_class", [GradCAM, EigenCAM, AblationCAM, ScoreCAM])
def test_scripted_parts_may_lie_below_the_layer(how, cam_class, images):
    found, expected = (cam_class(Partly(h).eval(), ["layer"])(images, CLASSES) for h in (how, "plain"))
    assert np.allclose(found, expected, atol=1e-4)


def test_a_scripted_relu_is_noticed(images):
    """A function, not a module."""
    scripted = torch.jit.script(Scripted.activate)

    class Network(Small):
        def forward(self, x):
            return self.fc(scripted(self.conv2(torch.relu(self.conv1(x)))).mean(dim=(2, 3)))

    with pytest.raises(ValueError, match="must see every ReLU, and code that is scripted or compiled ran one"):
        GuidedBackpropReLUModel(Network().eval())(images, CLASSES)


class Scripted:
    @staticmethod
    def activate(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh])
def test_guided_backprop_without_relu_is_an_error(activation, images):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    with pytest.raises(ValueError, match="changes the gradient of ReLUs, and none ran"):
        GuidedBackpropReLUModel(model)(images, CLASSES)


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear})


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no quantized kernels")
def test_quantized_layers(images):
    for cam_class in (GradCAM, LayerCAM, FullGrad):
        with pytest.raises(ValueError, match=r"fc \(Linear\) is quantized and has no gradient.*EigenCAM, ScoreCAM"):
            cam_class(quantized(), ["relu"])(images, CLASSES)
    for cam_class in (EigenCAM, ScoreCAM, AblationCAM):
        found, expected = (cam_class(m, ["relu"])(images, CLASSES) for m in (quantized(), Small().eval()))
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95, cam_class.__name__


def test_exported_models_are_refused_in_a_sentence(images):
    exported = torch.export.export(Small().eval(), (images,)).module()
    for model, layer in ((exported, "relu"), (nn.Sequential(exported), "0.relu")):
        modes = [m.training for m in model.modules()]
        with pytest.raises(ValueError, match=f"no layer '{layer}'.*exported.*explain the module that it was made from"):
            GradCAM(model, [layer])(images, CLASSES)
        with pytest.raises(TypeError, match="cannot switch to eval mode: explain the module that was exported"):
            FullGrad(model)(images, CLASSES)
        assert [m.training for m in model.modules()] == modes


def test_symbolically_traced_models_work(images):
    model = Small().eval()
    traced = torch.fx.symbolic_trace(model)
    expected = finished(grad_cam_maps(model, model.relu, images, CLASSES), (16, 12))
    assert np.allclose(GradCAM(traced, ["relu"])(images, CLASSES), expected, atol=1e-5)
    assert np.allclose(FullGrad(traced)(images, CLASSES), FullGrad(model)(images, CLASSES), atol=1e-5)


# -- layers of no influence -------------------------------------------------------------------------------------------


class TwoBlocks(Tokens):
    """A class token that is read from the second norm: other tokens have no influence there."""

    def __init__(self):
        super().__init__()
        self.norm2, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), 1, 8), self.embed(x).flatten(2).transpose(1, 2)], dim=1)
        tokens = self.norm(tokens)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((tokens + self.mlp(self.norm2(tokens)))[:, 0])


def patches(tokens):
    return to_grid(tokens[:, 1:])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cam_class", [GradCAM, HiResCAM, LayerCAM])
def test_a_layer_that_does_not_reach_the_target_is_reported(cam_class, frozen, images):
    model = TwoBlocks().eval().requires_grad_(not frozen)
    with pytest.warns(
        UserWarning, match="nothing reaches the target from layer norm2 .*layers that would do: .*norm"
    ) as seen:
        found = cam_class(model, ["norm2"], patches)(images, CLASSES)
    assert not found.any()
    (message,) = [str(w.message) for w in seen]
    assert "mlp" not in message.split("would do")[1]  # after it, nothing reaches the target either
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cam_class(model, ["norm"], patches)(images, CLASSES).max() == 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [("pool", "layer pool .* has a single position"), ("flat", "has the same value at all positions")],
)
def test_other_empty_maps_are_reported_with_their_reason(layer, reason, images):
    class Flat(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3), keepdim=True).expand_as(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.flat, self.pool, self.fc = (
                nn.Conv2d(3, 6, 3),
                Flat(),
                nn.AdaptiveAvgPool2d(1),
                nn.Linear(6, 3),
            )

        def forward(self, x):
            return self.fc(self.pool(self.flat(self.conv(x).relu())).flatten(1))

    model = Network().eval()
    model.fc.weight.data.abs_()
    with pytest.warns(UserWarning, match=reason):
        assert not GradCAM(model, [layer])(images, CLASSES).any()


def test_evidence_against_the_target_is_pointed_out(images):
    model = Small().eval()
    nn.init.constant_(model.fc.weight, -1)
    with pytest.warns(UserWarning, match=r"nothing at layer relu .*normalize=False, relu=False"):
        assert not GradCAM(model, ["relu"])(images, CLASSES).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GradCAM(model, ["relu"]).maps(images, CLASSES, normalize=False, relu=False).min() < 0
