"""Models and callers of every kind that the engine must cope with: each map against one of an ordinary model."""

import threading
from collections import OrderedDict, namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import CLASSES, METHODS, Small, activations_and_gradients, method, small_pictures
from torch import nn

from pytorch_grad_cam import (
    FEM,
    AblationCAM,
    AblationLayerVit,
    ActivationsAndGradients,
    BaseCAM,
    EigenCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    ShapleyCAM,
)
from pytorch_grad_cam.replay import Tape
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from pytorch_grad_cam.utils.svd_on_activations import principal_map


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def pictures():
    return small_pictures()


@pytest.fixture
def expected(model, pictures):
    return {c: c(model, [model.relu])(pictures, CLASSES) for c in (GradCAM, EigenCAM, ScoreCAM, AblationCAM)}


def assert_same_maps(expected, model, layers, inputs, targets=CLASSES):
    for cam_class, maps in expected.items():
        assert abs(cam_class(model, layers)(inputs, targets) - maps).max() < 1e-5, cam_class.__name__


# -- wrappers and compilers ------------------------------------------------------------------------------------------


def functional(model):
    return torch.compile(model, backend="eager")


def by_method(model):
    model.compile(backend="eager")
    return model


def in_part(model):
    model.conv2 = torch.compile(nn.Sequential(model.conv2, model.relu), backend="eager")
    model.relu = nn.Identity()
    return model


@pytest.mark.parametrize("compiled_as", [functional, by_method, in_part])
def test_compiled_models(compiled_as, expected, pictures):
    """Compiled and run before: compiled code would pass the hooks by. Afterwards it is compiled code again."""
    compiled = compiled_as(Small().eval())
    with torch.no_grad():
        compiled(pictures)
    layers = [compiled.conv2._orig_mod[1]] if compiled_as is in_part else ["relu"]
    assert_same_maps(expected, compiled, layers, pictures)
    from torch._dynamo import eval_frame

    assert eval_frame._stance.stance == "default"


def test_compilers_stance_with_two_explanations_at_a_time():
    """One starts while the other runs, and ends after it."""
    from torch._dynamo import eval_frame

    from pytorch_grad_cam.activations_and_gradients import explained

    first, second = explained(nn.Identity()), explained(nn.Identity())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert eval_frame._stance.stance == "default"


def test_data_parallel_models(model, expected, pictures):
    wrapped = nn.DataParallel(model)
    for layers in (["relu"], [wrapped.module.relu]):
        assert_same_maps(expected, wrapped, layers, pictures)
    guided = GuidedBackpropReLUModel(wrapped)(pictures, CLASSES)
    assert np.array_equal(guided, GuidedBackpropReLUModel(model)(pictures, CLASSES))


def test_two_threads_on_one_model(model, pictures):
    """With two CAM objects that begin together again and again; grad-cam mixes up their activations."""
    layers = {GradCAM: "relu", AblationCAM: "conv2"}
    alone = {c: [c(model, [layers[c]])(pictures[i : i + 1], [CLASSES[i]]) for i in range(4)] for c in layers}
    together, start = {c: [] for c in layers}, threading.Barrier(2)

    def work(cam_class):
        cam = cam_class(model, [layers[cam_class]])
        for _ in range(5):
            start.wait()
            together[cam_class] += [cam(pictures[i : i + 1], [CLASSES[i]]) for i in range(4)]

    threads = [threading.Thread(target=work, args=(c,)) for c in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cam_class, found in together.items():
        assert len(found) == 20
        assert all(np.array_equal(one, alone[cam_class][i % 4]) for i, one in enumerate(found))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_by_name(model, pictures, expected):
    network = nn.Sequential(OrderedDict(body=model))
    assert_same_maps(expected, network, ["body.relu"], pictures)
    both = GradCAM(network, ["body.bn1", model.relu])(pictures, CLASSES)
    assert np.array_equal(both, GradCAM(model, [model.bn1, model.relu])(pictures, CLASSES))
    with pytest.raises(ValueError, match=r"no layer 'body.rel' in the model; similar: body.relu"):
        GradCAM(network, ["body.rel"])
    with pytest.raises(ValueError, match=r"no layer 'zzz' in the model$"):
        GradCAM(network, ["zzz"])


# -- inputs ----------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Small, and numbers beside the picture: their product with the features counts, too."""

    def __init__(self):
        super().__init__()
        self.small = Small()
        self.side = nn.Linear(2, 8)

    def forward(self, numbers, pixels, scale=1.0, note=None):
        s = self.small
        features = s.relu(s.conv2(torch.relu(s.bn1(s.conv1(pixels))))).mean(dim=(2, 3))
        return s.fc(features * torch.sigmoid(self.side(numbers))) * scale


class Given(nn.Module):
    """The same for one picture, with its numbers built in."""

    def __init__(self, two, numbers):
        super().__init__()
        self.two, self.numbers = two, numbers

    def forward(self, pixels):
        return self.two(self.numbers.expand(len(pixels), 2), pixels)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("SESS", "CAM")])
def test_models_of_several_inputs(name, pictures):
    """As positional and as keyword arguments, in a batch: the map of each picture is that with its own numbers."""
    torch.manual_seed(5)
    two, numbers = Two().eval(), torch.randn(4, 2)
    run = lambda inputs: method(name, two, [two.small.relu])(inputs, CLASSES)  # noqa: E731
    found = run((numbers, pictures))
    assert found.shape == (4, 16, 12)
    if name == "RandomCAM":  # draws anew for each call
        return
    for i in range(4):
        alone = method(name, Given(two, numbers[i : i + 1]), [two.small.relu])(pictures[i : i + 1], [CLASSES[i]])
        assert abs(found[i] - alone[0]).max() < 1e-4
    assert np.array_equal(run({"pixels": pictures, "numbers": numbers, "note": "no tensor"}), found)
    if name == "ScoreCAM":
        smooth = ScoreCAM(two, [two.small.relu])((numbers, pictures), CLASSES, aug_smooth=True)
        alone = ScoreCAM(Given(two, numbers[:1]), [two.small.relu])(pictures[:1], [CLASSES[0]], aug_smooth=True)
        assert abs(smooth[0] - alone[0]).max() < 1e-4


def test_inputs_without_pictures_are_an_error(model):
    with pytest.raises(ValueError, match="no floating-point tensor"):
        GradCAM(model, ["relu"])({"x": torch.zeros(4, 3, dtype=torch.long)})


def test_channels_last_inputs_and_models(model, pictures):
    small = {name: method(name, model, ["relu"])(pictures, CLASSES) for name in METHODS}
    laid_out = Small().eval().to(memory_format=torch.channels_last)
    x = pictures.to(memory_format=torch.channels_last)
    for name, maps in small.items():
        assert abs(method(name, laid_out, ["relu"])(x, CLASSES) - maps).max() < 1e-4, name


def test_layer_outputs_of_any_memory_layout(pictures):
    """Sequence first, turned round: the step from picture to picture is smaller than a picture."""

    class Turned(nn.Module):
        def forward(self, x):
            return x.flatten(2).permute(2, 0, 1).contiguous().transpose(0, 1)  # (N, places, C) of (places, N, C)

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.turned, self.head = body, Turned(), head

        def forward(self, x):
            return self.head(self.turned(self.body(x)).transpose(1, 2))

    network = Network()
    to_grid = lambda tokens: tokens.transpose(1, 2).unflatten(2, (4, 3))  # noqa: E731
    for i in range(4):
        one = pictures[i : i + 1]
        expected = AblationCAM(network, [body])(one, [CLASSES[i]])
        assert np.array_equal(AblationCAM(network, ["turned"], to_grid)(one, [CLASSES[i]]), expected)


# -- outputs ---------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["scores", "features"])


class Output(OrderedDict):
    """As transformers have it: a mapping whose items are attributes, too."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__.update(items)


FORMS = {
    "tuple": lambda scores, features: (scores, features),
    "named tuple": Pair,
    "logits": lambda scores, features: {"features": features, "logits": scores},
    "out": lambda scores, features: OrderedDict(aux=features, out=scores),
    "model output": lambda scores, features: Output(loss=None, logits=scores, features=features),
    "first": lambda scores, features: {"scores": scores, "features": features},
}


class Formed(Small):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        features = self.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return FORMS[self.form](self.fc(features.mean(dim=(2, 3))), features)


@pytest.mark.parametrize("form", FORMS)
def test_outputs_in_structures(form, model, pictures, expected):
    network = Formed(form).eval()
    assert_same_maps(expected, network, ["relu"], pictures)
    predicted = model(pictures).argmax(1).tolist()
    for targets in (None, [ClassifierOutputTarget(c) for c in predicted], torch.tensor(predicted)):
        assert np.array_equal(GradCAM(network, ["relu"])(pictures, targets), GradCAM(model, ["relu"])(pictures))
    softmax = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    found, wanted = (FullGrad(m)(pictures, softmax) for m in (network, model))
    assert np.array_equal(found, wanted)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return {"out": self.head(torch.relu(self.body(x)))}


def test_methods_of_no_class_need_no_classifier(pictures):
    """Neither with nor without ``aug_smooth``; others say what they need."""
    network = Dense()
    for cam_class in (EigenCAM, FEM):
        for aug_smooth in (False, True):
            heat = cam_class(network, ["body"])(pictures, aug_smooth=aug_smooth)
            any_targets = cam_class(network, ["body"])(pictures, [len] * 4, aug_smooth=aug_smooth)
            assert heat.max() > 0.3
            assert np.array_equal(heat, any_targets)
    with pytest.raises(ValueError, match=r"targets=None needs outputs of shape \(pictures, classes\)"):
        GradCAM(network, ["body"])(pictures)


def test_single_logit_models_explain_the_side_they_are_on(model, pictures):
    """As ``BinaryClassifierOutputTarget`` does; grad-cam always explains the positive side."""
    torch.manual_seed(0)
    network = nn.Sequential(model, nn.Linear(3, 1))
    with torch.no_grad():
        network[1].bias -= network(pictures).mean()
    sides = [int(logit > 0) for logit in network(pictures)]
    assert {0, 1} == {*sides}
    cam = GradCAM(network, [model.relu])
    found = cam(pictures)
    assert np.array_equal(found, cam(pictures, [BinaryClassifierOutputTarget(side) for side in sides]))
    negative = sides.index(0)
    opposite = cam(pictures, [BinaryClassifierOutputTarget(1)] * 4)
    assert abs(found[negative] - opposite[negative]).max() > 0.1


def test_a_target_that_is_not_in_a_list_is_an_error(model, pictures):
    """Its logits would be taken for class indices."""
    with pytest.raises(ValueError, match="a list with one target for each picture"):
        GradCAM(model, ["relu"])(pictures, ClassifierOutputTarget(1))
    by_output = GradCAM(model, ["relu"])(pictures, lambda scores: scores.argmin(dim=1))
    assert np.array_equal(by_output, GradCAM(model, ["relu"])(pictures, model(pictures).argmin(1).tolist()))


# -- forward passes of their own kind --------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """One layer, run as often as asked; what it puts out is the tensor that the next run takes."""

    def __init__(self, runs):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.cell, self.runs = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), runs
        self.fc = nn.Linear(5, 3)

    def head(self, x):
        return self.fc(torch.tanh(x).mean(dim=(2, 3)))

    def forward(self, x):
        x = self.stem(x)
        for _ in range(self.runs):
            x = self.cell(torch.tanh(x))
        return self.head(x)


class Tail(nn.Module):
    """What the last run of the layer sees, and what follows: an ordinary network for the same map."""

    def __init__(self, recurrent):
        super().__init__()
        self.cell, self.head = recurrent.cell, recurrent.head

    def forward(self, x):
        return self.head(self.cell(x))


@pytest.mark.parametrize("runs", [2, 9])
def test_of_a_layer_that_runs_several_times_the_last_run_counts(runs, pictures):
    network = Recurrent(runs).eval()
    with torch.no_grad():
        before = network.stem(pictures)
        for _ in range(runs - 1):
            before = network.cell(torch.tanh(before))
        before = torch.tanh(before)
    for name in ("GradCAM", "HiResCAM", "EigenCAM", "ShapleyCAM", "AblationCAM"):
        found = method(name, network, ["cell"])(pictures, CLASSES)
        assert abs(found - method(name, Tail(network), ["cell"])(before, CLASSES)).max() < 1e-4, name


class Frozen(Small):
    """Transfer learning as many write it: the body within ``no_grad``."""

    def forward(self, x):
        with torch.no_grad():
            features = self.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad])
def test_models_that_switch_autograd_off_around_the_layer(caller, expected, pictures):
    network = Frozen().eval()
    with caller():
        assert_same_maps(expected, network, ["relu"], pictures)
    assert all(p.grad is None for p in network.parameters())


class Tuples(nn.Module):
    """A layer that puts out its features, something for each picture beside them, and something for none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        return x, x.amax(dim=(2, 3)), torch.tensor(2.0)


class Untupled(Tuples):
    def forward(self, x):
        return super().forward(x)[0]


class Above(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer(x)
        return self.fc((x[0] if isinstance(x, tuple) else x).sigmoid().mean(dim=(2, 3)))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "CAM"])
def test_layers_that_put_out_tuples(name, pictures):
    """Their first tensor is explained."""
    torch.manual_seed(1)
    plain = Above(Untupled())
    tupled = Above(Tuples())
    tupled.load_state_dict(plain.state_dict())
    found, expected = (method(name, network, ["layer"])(pictures, CLASSES) for network in (tupled, plain))
    assert np.array_equal(found, expected)
    assert found.max() == (0 if name == "FEM" else 1)  # no place is unusual there


def test_models_without_parameters(pictures):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.middle = nn.AvgPool2d(2)

        def forward(self, x):
            return torch.relu(self.middle(x)).mean(dim=(2, 3))

    middle = nn.functional.avg_pool2d(pictures, 2)
    expected = nn.functional.interpolate(middle.relu()[:1, :1], (16, 12), mode="bilinear")[0, 0]
    expected = (expected / expected.max()).numpy()  # the score is the first colour's mean
    bright = (middle.relu() > 0).float() / 48
    assert np.allclose(HiResCAM(Bare(), ["middle"])(pictures, [0] * 4)[0], expected, atol=1e-6)
    assert np.allclose(AblationCAM(Bare(), ["middle"])(pictures, [0] * 4)[0], expected, atol=1e-5)
    guided = GuidedBackpropReLUModel(Bare())(pictures, [0] * 4)
    wide = nn.functional.interpolate(bright[:, :1], scale_factor=2)[:, 0] / 4
    assert np.allclose(guided[..., 0], wide, atol=1e-7)
    assert not guided[..., 1:].any()


@pytest.mark.parametrize("name", METHODS)
def test_callers_under_autocast(name, model, pictures):
    """The model runs in bfloat16, the maps' own arithmetic does not; training may go on in the same block."""
    expected = method(name, model, ["relu"])(pictures, CLASSES)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(name, model, ["relu"])(pictures, CLASSES)
        model(pictures).sum().backward()
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > (0.8 if name == "Occlusion" else 0.98)
    assert all(p.grad is not None for p in model.parameters())


def test_rise_under_autocast_is_not_summed_in_half_precision(pictures):
    """Scores far from 0: what the masks change is small beside them."""

    class Level(nn.Module):
        def forward(self, x):
            return x[..., :8, :].mean(dim=(1, 2, 3))[:, None].repeat(1, 2) + 50

    plain = method("RISE", Level(), [])(pictures, [0] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of no effect on this model
        assert np.array_equal(method("RISE", Level(), [])(pictures, [0] * 4), plain)


# -- Ablation-CAM: what runs again -----------------------------------------------------------------------------------


def whole(model, layers, pictures, targets, batch_size=32, **others):
    """Ablation-CAM that runs the whole model for each channel, as the plain reference does."""
    original, Tape._is_exact = Tape._is_exact, lambda tape: False
    try:
        return AblationCAM(model, layers, batch_size=batch_size, **others).maps(pictures, targets, normalize=False)
    finally:
        Tape._is_exact = original


class Pack(nn.Module):
    """Puts out an object of its own, as detectors pass their pictures on."""

    def forward(self, x):
        return SimpleNamespace(content=x + 1)


class Forward(nn.Module):
    """Two convolutions and a head; what ``forward`` does with them is the case."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        self.below, self.layer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.above, self.fc, self.case = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3), case
        self.relu, self.pack = nn.ReLU(inplace=True), Pack()

    def forward(self, x):
        return getattr(self, self.case)(x)

    def finish(self, x):
        return self.fc(x.mean(dim=(2, 3)))

    def in_place_above(self, x):
        return self.finish(self.above(self.relu(self.layer(self.relu(self.below(x))))))

    def adds_to_what_lies_below_before(self, x):
        y = self.below(x)
        y += 1
        return self.finish(self.above(torch.tanh(self.layer(y) + y)))

    def adds_to_what_lies_below_after(self, x):
        y = self.below(x)
        z = self.layer(y)
        y += torch.tanh(z)
        return self.finish(self.above(y))

    def works_in_place_and_then_on_the_batch(self, x):
        y = self.below(x)
        z = self.layer(y).mul_(-2)
        return self.finish(self.above(torch.tanh(z) + y.view(-1, *y.shape[2:]).view_as(y)))

    def layer_runs_twice(self, x):
        return self.finish(self.above(torch.tanh(self.layer(torch.tanh(self.layer(self.below(x)))))))

    def module_runs_below_and_above(self, x):
        return self.finish(self.above(torch.tanh(self.layer(self.above(self.below(x))))))

    def passes_an_object_on(self, x):
        packed = self.pack(self.below(x))
        return self.finish(self.above(torch.tanh(self.layer(packed.content) + packed.content)))

    def changes_the_logits(self, x):
        logits = self.in_place_above(x)
        logits[:, 1] *= 3
        return logits

    def logits_of_another_order(self, x):
        logits = self.in_place_above(x)
        logits[:, 0] += logits[:, 2] ** 2
        return logits

    def looks_at_the_whole_batch(self, x):
        y = self.below(x)
        z = self.layer(y)
        return self.finish(self.above(torch.tanh(z) * y.mean(dim=0, keepdim=True)))


CASES = [name for name in vars(Forward) if not name.startswith("_") and name not in ("forward", "finish")]
NOT_REPLAYED = {
    "adds_to_what_lies_below_before",
    "adds_to_what_lies_below_after",
    "works_in_place_and_then_on_the_batch",
}


@pytest.mark.parametrize("case", CASES)
def test_ablation_is_exact_whatever_forward_does(case, pictures, monkeypatch):
    network = Forward(case).eval()
    x = pictures[:1] if case == "looks_at_the_whole_batch" else pictures
    targets = CLASSES[: len(x)]
    expected = whole(network, ["layer"], x, targets)
    runs = []
    network.below.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    for batch_size in (1, 4, 32):
        runs.clear()
        found = AblationCAM(network, ["layer"], batch_size=batch_size).maps(x, targets, normalize=False)
        assert torch.allclose(found, expected, atol=1e-6)
    assert found.abs().max() > 1e-4


@pytest.mark.parametrize("case", CASES)
def test_ablation_replays_where_it_can(case, pictures):
    """The convolution below the layer is computed once, unless a replay would not be exact."""
    network = Forward(case).eval()
    x = pictures[:1] if case == "looks_at_the_whole_batch" else pictures
    computed = []
    network.below.__dict__["_conv_forward"] = lambda *arguments: (
        computed.append(1) or nn.Conv2d._conv_forward(network.below, *arguments)
    )
    AblationCAM(network, ["layer"])(x, CLASSES[: len(x)])
    assert (len(computed) > 1) == (case in NOT_REPLAYED)


@pytest.mark.parametrize("hooked", ["below", "layer", "above", "fc"])
def test_ablation_with_hooks_of_the_callers_that_change_outputs(hooked, pictures):
    network = Forward("in_place_above").eval()
    network.get_submodule(hooked).register_forward_hook(
        lambda m, i, o: 2 * o + torch.arange(o.shape[1]).view(-1, *[1] * (o.ndim - 2))
    )
    expected = whole(network, ["layer"], pictures, CLASSES)
    found = AblationCAM(network, ["layer"]).maps(pictures, CLASSES, normalize=False)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ablation_of_some_channels(pictures):
    """The others have weight 0; those that are tried have the weight that they have among all."""
    network = Forward("in_place_above").eval()
    weights = {}
    for ratio in (0.5, 1.0):
        cam = AblationCAM(network, ["layer"], ratio_channels_to_ablate=ratio)
        with torch.no_grad():
            weights[ratio] = torch.cat([cam.channel_weights(run) for run in cam._runs(pictures, CLASSES)])
    tried = weights[0.5] != 0
    assert tried.sum(dim=1).tolist() == [3] * 4
    assert torch.allclose(weights[0.5][tried], weights[1.0][tried], atol=1e-6)
    assert (weights[1.0] != 0).all()
    with pytest.raises(ValueError, match="ratio_channels_to_ablate"):
        AblationCAM(network, ["layer"], ratio_channels_to_ablate=0)


class Tokens(nn.Module):
    """A transformer in small: a class token, an attention block, a norm that is the target, a head on the class token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), 1, 8), self.embed(x).flatten(2).transpose(1, 2)], dim=1)
        tokens = self.norm(tokens)
        return self.head((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])[:, 0])


def test_ablation_of_tokens(pictures):
    """With ``AblationLayerVit`` a channel is off in the class token too; without, in the grid alone."""
    network, grid = Tokens().eval(), partial(vit_reshape_transform, height=4, width=3)
    with torch.no_grad():
        normed = []
        handle = network.norm.register_forward_hook(lambda m, i, o: normed.append(o.clone()))
        intact = network(pictures)
        handle.remove()
        for layer, first in ((AblationLayerVit(), 0), (None, 1)):
            weights = torch.zeros(4, 8)
            for c in range(8):

                def without(m, i, o, c=c, first=first):
                    o = o.clone()
                    o[:, first:, c] = 0
                    return o

                handle = network.norm.register_forward_hook(without)
                lost = network(pictures)
                handle.remove()
                for i, k in enumerate(CLASSES):
                    weights[i, c] = (intact[i, k] - lost[i, k]) / intact[i, k].abs()
            expected = (weights[:, :, None, None] * grid(normed[0])).sum(1).relu()
            expected = nn.functional.interpolate(expected[:, None], (16, 12), mode="bilinear")[:, 0]
            for batch_size in (3, 32):
                cam = AblationCAM(network, ["norm"], grid, ablation_layer=layer, batch_size=batch_size)
                found = cam.maps(pictures, CLASSES, normalize=False)
                assert torch.allclose(found, expected, atol=1e-5)


def test_shapley_cam_through_fused_attention(pictures):
    """Whose second derivative PyTorch does not have; grad-cam fails."""
    network, grid = Tokens().eval(), partial(vit_reshape_transform, height=4, width=3)
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    kept = []
    handle = network.norm.register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    network(pictures)
    handle.remove()
    expected = []
    for tokens, target in zip(kept[0], targets, strict=True):

        def score(tokens, target=target):
            after = tokens + network.attention(tokens, tokens, tokens)[0]  # with weights asked for: not fused
            return target(network.head(after[:, 0])[0])

        one = tokens[None].requires_grad_()
        (gradient,) = torch.autograd.grad(score(one), one)
        _, product = torch.autograd.functional.vhp(score, one.detach(), one.detach())
        assert product.abs().max() > 1e-4
        weights = grid(gradient - product / 2).mean(dim=(2, 3), keepdim=True)
        expected.append((weights * grid(one.detach())).sum(1).relu())
    expected = nn.functional.interpolate(torch.stack(expected), (16, 12), mode="bilinear")[:, 0]
    found = ShapleyCAM(network, ["norm"], grid).maps(pictures, targets, normalize=False)
    assert torch.allclose(found, expected, atol=1e-6)


def test_ablation_of_one_layer_named_twice_and_nothing_kept(model, pictures):
    cam = AblationCAM(model, ["relu", "relu"])
    assert np.allclose(cam(pictures, CLASSES), AblationCAM(model, ["relu"])(pictures, CLASSES), atol=1e-6)
    assert cam._tapes == {}
    with pytest.raises(IndexError):
        cam(pictures, [99] * 4)
    assert cam._tapes == {}


# -- methods and tools that users write ------------------------------------------------------------------------------


class Mine(BaseCAM):
    """A channel's weight is its largest gradient; written for grad-cam, with numpy arrays."""

    def __init__(self, model, target_layers, reshape_transform=None):
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
        assert isinstance(activations, np.ndarray)
        assert len(targets) == len(input_tensor)
        return np.max(grads, axis=(2, 3))


class Lifted(GradCAM):
    """Calls ``super()`` in both."""

    def get_cam_weights(self, *arguments):
        return 2 * super().get_cam_weights(*arguments) - 1

    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        assert isinstance(grads, np.ndarray)
        return super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth) + 3


class Sharper(EigenCAM):
    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        assert grads is None
        return super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth) ** 3


class Halved(AblationCAM):
    """``super()`` of a method that runs the model again."""

    def get_cam_weights(self, *arguments):
        weights = super().get_cam_weights(*arguments)
        weights[:, ::2] = 0
        return weights


def test_methods_written_with_numpy(model, pictures):
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    raw = {"normalize": False, "relu": False}

    def large(small):
        return nn.functional.interpolate(small[:, None], (16, 12), mode="bilinear", align_corners=False)[:, 0]

    found = Mine(model, [model.relu]).maps(pictures, CLASSES, **raw)
    assert torch.allclose(found, large((g.amax(dim=(2, 3), keepdim=True) * a).sum(1)), atol=1e-6)
    weights = 2 * g.mean(dim=(2, 3), keepdim=True) - 1
    found = Lifted(model, [model.relu]).maps(pictures, CLASSES, **raw)
    assert torch.allclose(found, large((weights * a).sum(1) + 3), atol=1e-5)
    component = principal_map(a)
    found = Sharper(model, [model.relu]).maps(pictures, **raw)
    assert torch.allclose(found, large(component**3), atol=1e-4)
    cam = AblationCAM(model, [model.relu])
    with torch.no_grad():
        weights = cam.channel_weights(*cam._runs(pictures, CLASSES))
    weights[:, ::2] = 0
    found = Halved(model, [model.relu]).maps(pictures, CLASSES, **raw)
    assert torch.allclose(found, large((weights[:, :, None, None] * a).sum(1)), atol=1e-6)


def test_methods_by_hand_on_arrays(model, pictures):
    """As scripts for detectors call them, outside any run."""
    a, g = (t.numpy() for t in activations_and_gradients(model, model.relu, pictures, CLASSES))
    cam = LayerCAM(model, [model.relu])
    found = cam.get_cam_image(pictures, model.relu, None, a, g)
    assert np.allclose(found, (np.maximum(g, 0) * a).sum(axis=1), atol=1e-6)
    assert np.allclose(GradCAM(model, ["relu"]).get_cam_weights(None, None, None, a, g), g.mean(axis=(2, 3)))
    with pytest.raises(NotImplementedError, match="BaseCAM"):
        BaseCAM(model, ["relu"])(pictures, CLASSES)


def test_a_forward_of_the_users_own_is_called(model, pictures):
    class Inverted(GradCAM):
        def forward(self, input_tensor, targets, eigen_smooth=False):
            return 1 - super().forward(input_tensor, targets, eigen_smooth)

    assert np.array_equal(Inverted(model, ["relu"])(pictures, CLASSES), 1 - GradCAM(model, ["relu"])(pictures, CLASSES))


def test_activations_and_gradients_by_hand(model, pictures):
    """As scripts use it: run, ``backward``, read the lists."""
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    earlier = activations_and_gradients(model, model.bn1, pictures, CLASSES)
    recorder = ActivationsAndGradients(model, [model.bn1, model.relu], None)
    outputs = recorder(pictures)
    outputs[range(4), CLASSES].sum().backward()
    for found, expected in zip(recorder.activations, (earlier[0], a), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(recorder.gradients, (earlier[1], g), strict=True):
        assert torch.equal(found, expected)
    halved = ActivationsAndGradients(model, [model.relu], lambda tensor: tensor[:, ::2])
    halved(pictures)[range(4), CLASSES].sum().backward()
    assert torch.equal(halved.gradients[0], g[:, ::2])
    recorder.release()
    assert recorder.activations == recorder.gradients == []


def test_two_shapley_layers_can_be_differentiated_again(model, pictures):
    """grad-cam frees the graph after the first."""
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    recorder = ShapleyCAM(model, ["bn1", "relu"]).activations_and_grads
    score = sum(target(output) for target, output in zip(targets, recorder(pictures), strict=True))
    first, second = recorder.differentiate(score)
    assert first.requires_grad
    assert second.requires_grad


class Sharpened(GradCAM):
    """As scripts for detectors override it: numpy arrays in, each layer's maps to the third power."""

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        recorded = self.activations_and_grads
        assert [a.shape for a in recorded.activations] == [g.shape for g in recorded.gradients]
        assert len(targets) == len(input_tensor)
        return [heat**3 for heat in super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)]


class Strongest(GradCAM):
    def aggregate_multi_layers(self, cam_per_target_layer):
        return np.concatenate(cam_per_target_layer, axis=1).max(axis=1)


class Coarse(GradCAM):
    def get_target_width_height(self, input_tensor):
        width, height = super().get_target_width_height(input_tensor)
        return width // 2, height // 2


def test_overrides_of_how_layers_are_merged(model, pictures):
    layers = ["bn1", "relu"]
    assert np.allclose(
        Strongest(model, layers)(pictures, CLASSES), np.maximum(*_stretched(model, pictures, layers)), atol=1e-6
    )
    mean = np.mean([heat**3 for heat in _stretched(model, pictures, layers)], axis=0)
    low, high = mean.min((1, 2), keepdims=True), mean.max((1, 2), keepdims=True)
    assert np.allclose(Sharpened(model, layers)(pictures, CLASSES), (mean - low) / (high - low), atol=1e-5)
    assert Coarse(model, layers)(pictures, CLASSES).shape == (4, 8, 6)
    assert GradCAM(model, layers).get_target_width_height(pictures) == (12, 16)
    with pytest.raises(ValueError, match="Strongest merges stretched maps"):
        Strongest(model, layers).maps(pictures, CLASSES, normalize=False)
    assert not any(module._forward_hooks for module in model.modules())


def _stretched(model, pictures, layers):
    """Each layer's maps: ReLU, stretched at their own size, then enlarged."""
    found = []
    for layer in layers:
        a, g = activations_and_gradients(model, model.get_submodule(layer), pictures, CLASSES)
        small = (g.mean(dim=(2, 3), keepdim=True) * a).sum(1).relu()
        low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
        large = nn.functional.interpolate(
            ((small - low) / (high - low))[:, None], (16, 12), mode="bilinear", align_corners=False
        )
        found.append(large[:, 0].numpy())
    return found
