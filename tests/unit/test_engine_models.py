"""Models of any kind: compiled, wrapped, with several inputs, with structured outputs, with unusual forward passes."""

import threading
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from networks import CLASSES, METHODS, Small, method, small_images
from torch import nn

from pytorch_grad_cam import (
    FEM,
    AblationCAM,
    EigenCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    HiResCAM,
    ScoreCAM,
)
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


@pytest.fixture
def expected(model, images):
    return {c: c(model, [model.relu])(images, CLASSES) for c in (GradCAM, EigenCAM, ScoreCAM, AblationCAM)}


def assert_same_maps(expected, model, layers, inputs, targets=CLASSES):
    for cam_class, maps in expected.items():
        assert abs(cam_class(model, layers)(inputs, targets) - maps).max() < 1e-5, cam_class.__name__


def functional(model):
    return torch.compile(model, backend="eager")


def by_method(model):
    model.compile(backend="eager")
    return model


def in_part(model):
    model.conv2 = torch.compile(nn.Sequential(model.conv2, model.relu), backend="eager")
    model.relu = nn.Identity()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("compiled_as", [functional, by_method, in_part])
def test_compiled_models(compiled_as, expected, images):
    """Compiled and run before, since compiled code skips hooks; afterwards it runs compiled again."""
    compiled = compiled_as(Small().eval())
    with torch.no_grad():
        compiled(images)
    layers = [compiled.conv2._orig_mod[1]] if compiled_as is in_part else ["relu"]
    assert_same_maps(expected, compiled, layers, images)
    from torch._dynamo import eval_frame

    assert eval_frame._stance.stance == "default"


def test_compiler_stance_with_two_concurrent_explanations():
    """The second starts while the first runs, and ends after it."""
    from torch._dynamo import eval_frame

    from pytorch_grad_cam.context import explanation_context

    first, second = explanation_context(nn.Identity()), explanation_context(nn.Identity())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert eval_frame._stance.stance == "default"


def test_data_parallel_models(model, expected, images):
    wrapped = nn.DataParallel(model)
    for layers in (["relu"], [wrapped.module.relu]):
        assert_same_maps(expected, wrapped, layers, images)
    guided = GuidedBackpropReLUModel(wrapped)(images, CLASSES)
    assert np.array_equal(guided, GuidedBackpropReLUModel(model)(images, CLASSES))


def test_two_threads_on_one_model(model, images):
    """Two CAM objects start simultaneously, repeatedly; grad-cam mixes up their activations."""
    layers = {GradCAM: "relu", AblationCAM: "conv2"}
    alone = {c: [c(model, [layers[c]])(images[i : i + 1], [CLASSES[i]]) for i in range(4)] for c in layers}
    together, start = {c: [] for c in layers}, threading.Barrier(2)

    def work(cam_class):
        cam = cam_class(model, [layers[cam_class]])
        for _ in range(5):
            start.wait()
            together[cam_class] += [cam(images[i : i + 1], [CLASSES[i]]) for i in range(4)]

    threads = [threading.Thread(target=work, args=(c,)) for c in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cam_class, found in together.items():
        assert len(found) == 20
        assert all(np.array_equal(one, alone[cam_class][i % 4]) for i, one in enumerate(found))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_by_name(model, images, expected):
    network = nn.Sequential(OrderedDict(body=model))
    assert_same_maps(expected, network, ["body.relu"], images)
    both = GradCAM(network, ["body.bn1", model.relu])(images, CLASSES)
    assert np.array_equal(both, GradCAM(model, [model.bn1, model.relu])(images, CLASSES))
    with pytest.raises(ValueError, match=r"no layer 'body.rel' in the model; similar: body.relu"):
        GradCAM(network, ["body.rel"])
    with pytest.raises(ValueError, match=r"no layer 'zzz' in the model$"):
        GradCAM(network, ["zzz"])


class Two(nn.Module):
    """Small with a second input: numbers that are multiplied with the features."""

    def __init__(self):
        super().__init__()
        self.small = Small()
        self.side = nn.Linear(2, 8)

    def forward(self, numbers, pixels, scale=1.0, note=None):
        s = self.small
        features = s.relu(s.conv2(torch.relu(s.bn1(s.conv1(pixels))))).mean(dim=(2, 3))
        return s.fc(features * torch.sigmoid(self.side(numbers))) * scale


class Given(nn.Module):
    """The same for one image, with its numbers as an attribute."""

    def __init__(self, two, numbers):
        super().__init__()
        self.two, self.numbers = two, numbers

    def forward(self, pixels):
        return self.two(self.numbers.expand(len(pixels), 2), pixels)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("SESS", "CAM")])
def test_models_of_several_inputs(name, images):
    """As positional and as keyword arguments; the map of each image depends on its own numbers."""
    torch.manual_seed(5)
    two, numbers = Two().eval(), torch.randn(4, 2)
    run = lambda inputs: method(name, two, [two.small.relu])(inputs, CLASSES)  # noqa: E731
    found = run((numbers, images))
    assert found.shape == (4, 16, 12)
    if name == "RandomCAM":  # draws new weights in each call
        return
    for i in range(4):
        alone = method(name, Given(two, numbers[i : i + 1]), [two.small.relu])(images[i : i + 1], [CLASSES[i]])
        assert abs(found[i] - alone[0]).max() < 1e-4
    assert np.array_equal(run({"pixels": images, "numbers": numbers, "note": "no tensor"}), found)
    if name == "ScoreCAM":
        smooth = ScoreCAM(two, [two.small.relu])((numbers, images), CLASSES, aug_smooth=True)
        alone = ScoreCAM(Given(two, numbers[:1]), [two.small.relu])(images[:1], [CLASSES[0]], aug_smooth=True)
        assert abs(smooth[0] - alone[0]).max() < 1e-4


def test_inputs_without_images_are_an_error(model):
    with pytest.raises(ValueError, match="no floating-point tensor"):
        GradCAM(model, ["relu"])({"x": torch.zeros(4, 3, dtype=torch.long)})


def test_channels_last_inputs_and_models(model, images):
    small = {name: method(name, model, ["relu"])(images, CLASSES) for name in METHODS}
    channels_last = Small().eval().to(memory_format=torch.channels_last)
    x = images.to(memory_format=torch.channels_last)
    for name, maps in small.items():
        assert abs(method(name, channels_last, ["relu"])(x, CLASSES) - maps).max() < 1e-4, name


def test_layer_outputs_of_any_memory_layout(images):
    """Sequence first, transposed: the stride of the batch dimension is smaller than an image."""

    class Transposed(nn.Module):
        def forward(self, x):
            return x.flatten(2).permute(2, 0, 1).contiguous().transpose(0, 1)  # (N, positions, C) of (positions, N, C)

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.transposed, self.head = body, Transposed(), head

        def forward(self, x):
            return self.head(self.transposed(self.body(x)).transpose(1, 2))

    network = Network()
    to_grid = lambda tokens: tokens.transpose(1, 2).unflatten(2, (4, 3))  # noqa: E731
    for i in range(4):
        one = images[i : i + 1]
        expected = AblationCAM(network, [body])(one, [CLASSES[i]])
        assert np.array_equal(AblationCAM(network, ["transposed"], to_grid)(one, [CLASSES[i]]), expected)


Pair = namedtuple("Pair", ["scores", "features"])


class Output(OrderedDict):
    """As in transformers: a mapping whose items are also attributes."""

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
def test_outputs_in_structures(form, model, images, expected):
    network = Formed(form).eval()
    assert_same_maps(expected, network, ["relu"], images)
    predicted = model(images).argmax(1).tolist()
    for targets in (None, [ClassifierOutputTarget(c) for c in predicted], torch.tensor(predicted)):
        assert np.array_equal(GradCAM(network, ["relu"])(images, targets), GradCAM(model, ["relu"])(images))
    softmax = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    found, reference = (FullGrad(m)(images, softmax) for m in (network, model))
    assert np.array_equal(found, reference)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return {"out": self.head(torch.relu(self.body(x)))}


def test_class_independent_methods_need_no_classifier(images):
    """Neither with nor without ``aug_smooth``; others raise an error."""
    network = Dense()
    for cam_class in (EigenCAM, FEM):
        for aug_smooth in (False, True):
            heatmap = cam_class(network, ["body"])(images, aug_smooth=aug_smooth)
            any_targets = cam_class(network, ["body"])(images, [len] * 4, aug_smooth=aug_smooth)
            assert heatmap.max() > 0.3
            assert np.array_equal(heatmap, any_targets)
    with pytest.raises(ValueError, match=r"targets=None needs outputs of shape \(images, classes\)"):
        GradCAM(network, ["body"])(images)


def test_single_logit_models_explain_the_predicted_class(model, images):
    """As ``BinaryClassifierOutputTarget`` does; grad-cam always explains the positive class."""
    torch.manual_seed(0)
    network = nn.Sequential(model, nn.Linear(3, 1))
    with torch.no_grad():
        network[1].bias -= network(images).mean()
    sides = [int(logit > 0) for logit in network(images)]
    assert {0, 1} == {*sides}
    cam = GradCAM(network, [model.relu])
    found = cam(images)
    assert np.array_equal(found, cam(images, [BinaryClassifierOutputTarget(side) for side in sides]))
    negative = sides.index(0)
    opposite = cam(images, [BinaryClassifierOutputTarget(1)] * 4)
    assert abs(found[negative] - opposite[negative]).max() > 0.1


def test_a_target_outside_a_list_is_an_error(model, images):
    """Its logits would be mistaken for class indices."""
    with pytest.raises(ValueError, match="a list with one target per image"):
        GradCAM(model, ["relu"])(images, ClassifierOutputTarget(1))
    by_output = GradCAM(model, ["relu"])(images, lambda scores: scores.argmin(dim=1))
    assert np.array_equal(by_output, GradCAM(model, ["relu"])(images, model(images).argmin(1).tolist()))


class Recurrent(nn.Module):
    """One layer that runs several times; each run takes the output of the previous one."""

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
    """The last run of the layer and what follows, as an ordinary network with the same map."""

    def __init__(self, recurrent):
        super().__init__()
        self.cell, self.head = recurrent.cell, recurrent.head

    def forward(self, x):
        return self.head(self.cell(x))


@pytest.mark.parametrize("runs", [2, 9])
def test_a_repeated_layer_is_explained_at_its_last_run(runs, images):
    network = Recurrent(runs).eval()
    with torch.no_grad():
        before = network.stem(images)
        for _ in range(runs - 1):
            before = network.cell(torch.tanh(before))
        before = torch.tanh(before)
    for name in ("GradCAM", "HiResCAM", "EigenCAM", "ShapleyCAM", "AblationCAM"):
        found = method(name, network, ["cell"])(images, CLASSES)
        assert abs(found - method(name, Tail(network), ["cell"])(before, CLASSES)).max() < 1e-4, name


class Frozen(Small):
    """A common form of transfer learning: the body within ``no_grad``."""

    def forward(self, x):
        with torch.no_grad():
            features = self.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad])
def test_models_that_disable_autograd_around_the_layer(caller, expected, images):
    network = Frozen().eval()
    with caller():
        assert_same_maps(expected, network, ["relu"], images)
    assert all(p.grad is None for p in network.parameters())


class Tuples(nn.Module):
    """A layer that returns its features, a second tensor per image, and a scalar."""

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
def test_layers_that_return_tuples(name, images):
    """The first tensor is explained."""
    torch.manual_seed(1)
    plain = Above(Untupled())
    tupled = Above(Tuples())
    tupled.load_state_dict(plain.state_dict())
    found, expected = (method(name, network, ["layer"])(images, CLASSES) for network in (tupled, plain))
    assert np.array_equal(found, expected)
    assert found.max() == (0 if name == "FEM" else 1)  # no activation is unusual there


def test_models_without_parameters(images):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.middle = nn.AvgPool2d(2)

        def forward(self, x):
            return torch.relu(self.middle(x)).mean(dim=(2, 3))

    middle = nn.functional.avg_pool2d(images, 2)
    expected = nn.functional.interpolate(middle.relu()[:1, :1], (16, 12), mode="bilinear")[0, 0]
    expected = (expected / expected.max()).numpy()  # the score is the mean of the first channel
    bright = (middle.relu() > 0).float() / 48
    assert np.allclose(HiResCAM(Bare(), ["middle"])(images, [0] * 4)[0], expected, atol=1e-6)
    assert np.allclose(AblationCAM(Bare(), ["middle"])(images, [0] * 4)[0], expected, atol=1e-5)
    guided = GuidedBackpropReLUModel(Bare())(images, [0] * 4)
    wide = nn.functional.interpolate(bright[:, :1], scale_factor=2)[:, 0] / 4
    assert np.allclose(guided[..., 0], wide, atol=1e-7)
    assert not guided[..., 1:].any()


@pytest.mark.parametrize("name", METHODS)
def test_callers_under_autocast(name, model, images):
    """The model runs in bfloat16, the arithmetic on maps does not; training may continue in the same block."""
    expected = method(name, model, ["relu"])(images, CLASSES)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(name, model, ["relu"])(images, CLASSES)
        model(images).sum().backward()
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > (0.8 if name == "Occlusion" else 0.98)
    assert all(p.grad is not None for p in model.parameters())


def test_rise_under_autocast_is_not_summed_in_half_precision(images):
    """Scores far from 0, of which the masks change only a small fraction."""

    class Level(nn.Module):
        def forward(self, x):
            return x[..., :8, :].mean(dim=(1, 2, 3))[:, None].repeat(1, 2) + 50

    plain = method("RISE", Level(), [])(images, [0] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # without effect on this model
        assert np.array_equal(method("RISE", Level(), [])(images, [0] * 4), plain)
