"""What a model's input is: images among other inputs, shared ones, subclasses, and models that change their input."""

import numpy as np
import pytest
import torch
from networks import CLASSES, METHODS, Small, finished, grad_cam_maps, method, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    DeepFeatureFactorization,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    IntegratedGradients,
    ScoreCAM,
)
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget


@pytest.fixture
def images():
    return small_images()


# -- inputs that images share -----------------------------------------------------------------------------------------


class Clip(nn.Module):
    """Similarities of images and texts: (images, texts), and the same transposed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.words, self.scale = (
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.Embedding(9, 6),
            nn.Linear(2, 6),
        )

    def forward(self, pixel_values, input_ids, attention_mask=None, numbers=None):
        vectors = torch.relu(self.visual(pixel_values)).mean(dim=(2, 3))
        words = self.words(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = (words * mask[..., None]).sum(dim=1)
        if numbers is not None:
            vectors = vectors + self.scale(numbers)
        similarities = vectors @ texts.T
        return {"text_embeds": texts, "logits_per_image": similarities, "logits_per_text": similarities.T}


class WithTexts(nn.Module):
    """The same network with fixed texts, for images one by one."""

    def __init__(self, clip, **others):
        super().__init__()
        self.clip, self.visual, self.others = clip, clip.visual, others

    def forward(self, pixels):
        return self.clip(pixels, **self.others)["logits_per_image"]


SHARED = [
    "IntegratedGradients",
    "SmoothGrad",
    "Occlusion",
    "RISE",
    "ScoreCAM",
    "AblationCAM",
    "SmoothGradCAMPlusPlus",
    "GradCAM",
]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("texts", [1, 2, 4, 5])
@pytest.mark.parametrize("softmax", [False, True])
def test_texts_are_shared_by_all_images_however_many_there_are(count, texts, softmax, images):
    clip, x = Clip().eval(), images[:count]
    ids = torch.randint(9, (texts, 4), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(4) < torch.arange(1, texts + 1).clamp(max=4)[:, None]).long()
    classes = [(i + 1) % texts for i in range(count)]
    targets = [ClassifierOutputSoftmaxTarget(c) for c in classes] if softmax else classes
    inputs = {"pixel_values": x, "input_ids": ids, "attention_mask": mask}
    bound = WithTexts(clip, input_ids=ids, attention_mask=mask).eval()
    for name in SHARED:
        if name == "ScoreCAM" and softmax:
            continue
        run = lambda model, given: method(name, model, [clip.visual]).maps(given, targets, normalize=False)  # noqa: B023, E731
        found, expected = run(clip, inputs), run(bound, x)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5), name


def test_numbers_of_each_image_beside_texts_of_all(images):
    """With as many texts as images: numbers are sliced, texts are not."""
    clip, numbers = Clip().eval(), torch.randn(4, 2)
    ids = torch.randint(9, (4, 4), generator=torch.Generator().manual_seed(3))
    inputs = {"pixel_values": images, "input_ids": ids, "numbers": numbers}
    found = IntegratedGradients(clip, steps=4)(inputs, CLASSES)
    for i, category in enumerate(CLASSES):
        alone = IntegratedGradients(WithTexts(clip, input_ids=ids, numbers=numbers[i : i + 1]).eval(), steps=4)
        assert np.allclose(found[i], alone(images[i : i + 1], [category])[0], atol=1e-4)


def test_inputs_that_cannot_be_taken_apart_are_an_error(images):
    class Mixed(nn.Module):
        """Scores of an image depend on the numbers of all the others."""

        def __init__(self):
            super().__init__()
            self.small = Small()

        def forward(self, x, numbers):
            return self.small(x) * (numbers - numbers.mean(dim=0))

    with pytest.raises(ValueError, match="an image alone has other scores than in its batch"):
        IntegratedGradients(Mixed().eval(), steps=2)((images, torch.randn(4, 3)), CLASSES)


def test_other_values_among_the_inputs(images):
    class Any(Small):
        def forward(self, note, nothing, x, options, scale):
            assert note == ["a", "b", "c", "d"]
            assert nothing is None
            return super().forward(x) * options["gain"] * scale

    model, plain = Any().eval(), Small().eval()
    inputs = (["a", "b", "c", "d"], None, images, {"gain": 2.0, "deep": [torch.tensor(1)]}, 0.5)
    for name in ("GradCAM", "IntegratedGradients", "AblationCAM", "ScoreCAM"):
        found, expected = (method(name, m, ["relu"])(x, CLASSES) for m, x in ((model, inputs), (plain, images)))
        assert np.allclose(found, expected, atol=1e-5), name


def test_images_are_the_input_with_two_or_more_spatial_dimensions(images):
    """Embeddings (N, L, D) that come first are no images."""

    class Prompted(Small):
        def forward(self, embeddings, pixels):
            return super().forward(pixels) + embeddings.mean(dim=(1, 2))[:, None]

    inputs = {"embeddings": torch.randn(4, 7, 5), "pixels": images}
    for name in ("GradCAM", "IntegratedGradients", "Occlusion"):
        found = method(name, Prompted().eval(), ["relu"])(inputs, CLASSES)
        assert np.allclose(found, method(name, Small().eval(), ["relu"])(images, CLASSES), atol=1e-4), name


# -- models that change their input -----------------------------------------------------------------------------------


class InPlace(Small):
    """Normalises its input in place."""

    def forward(self, x):
        x.sub_(0.3).div_(0.5)
        return super().forward(x)


class OutOfPlace(Small):
    def forward(self, x):
        return super().forward((x - 0.3) / 0.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("aug_smooth", [False, True])
def test_models_that_change_their_input_in_place(name, aug_smooth, images):
    kept, model = images.clone(), InPlace().eval()
    found, expected = (
        method(name, m, ["relu"])(images, CLASSES, aug_smooth=aug_smooth) for m in (model, OutOfPlace().eval())
    )
    assert np.allclose(found, expected, atol=1e-4)
    assert torch.equal(images, kept)


def test_guided_backprop_factorization_and_metrics_of_such_models(images):
    kept, model, plain = images.clone(), InPlace().eval(), OutOfPlace().eval()
    guided = [GuidedBackpropReLUModel(m).gradients(images, CLASSES) for m in (model, plain)]
    assert torch.allclose(*guided, atol=1e-6)
    factors = [DeepFeatureFactorization(m, m.relu)(images, 2)[0] for m in (model, plain)]
    assert np.allclose(*factors, atol=1e-5)
    maps = torch.rand(4, 16, 12)
    change = [CamMultImageConfidenceChange()(images, maps, CLASSES, m) for m in (model, plain)]
    assert np.allclose(*change, atol=1e-5)
    assert torch.equal(images, kept)


# -- kinds of tensors -------------------------------------------------------------------------------------------------


class MetaTensor(torch.Tensor):
    """As in MONAI: results of operations are of this class, and ``new_empty`` wants a shape."""

    def new_empty(self, size, dtype=None, device=None, requires_grad=False):
        return type(self)(torch.Tensor.new_empty(self.as_subclass(torch.Tensor), tuple(size)))


@pytest.mark.parametrize("name", METHODS)
def test_tensor_subclasses(name, images):
    model = Small().eval()
    found, expected = (method(name, model, ["relu"]).maps(x, CLASSES) for x in (MetaTensor(images), images))
    assert type(found) is torch.Tensor
    assert torch.equal(found, expected)


def test_tensor_subclasses_elsewhere(images):
    model, subclass, maps = Small().eval(), MetaTensor(images), torch.rand(4, 16, 12)
    guided = [GuidedBackpropReLUModel(model).gradients(x, CLASSES) for x in (subclass, images)]
    assert torch.equal(*guided)
    assert type(guided[0]) is torch.Tensor
    change = [CamMultImageConfidenceChange()(x, maps, CLASSES, model) for x in (subclass, images)]
    assert np.array_equal(*change)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_require_a_gradient(name, images):
    model = Small().eval()
    expected = method(name, model, ["relu"])(images, CLASSES)
    for x in (images.clone().requires_grad_(), images.clone().requires_grad_() * 1, nn.Parameter(images.clone())):
        assert np.array_equal(method(name, model, ["relu"])(x, CLASSES), expected)
        assert x.is_leaf is False or x.grad is None


class Cached(nn.Module):
    """Positions, made in the first call and kept; in a place of any kind."""

    def __init__(self, place):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc, self.place = (
            nn.Conv2d(3, 6, 3),
            nn.LayerNorm([6, 14, 10]),
            nn.Linear(6, 3),
            place,
        )
        self.cache = {}

    def positions(self):
        holder = GLOBAL if self.place == "global" else self.cache
        if "positions" not in holder:
            value = torch.linspace(0.5, 2, 140).reshape(14, 10) * 1
            holder["positions"] = [value] if self.place == "list" else value
            if self.place == "buffer":
                self.register_buffer("table", value, persistent=False)
        if self.place == "buffer":
            return self.table
        return holder["positions"][0] if self.place == "list" else holder["positions"]

    def forward(self, x):
        return self.fc((self.norm(self.conv(x)) * self.positions()).tanh().mean(dim=(2, 3)))


GLOBAL = {}


@pytest.mark.parametrize("place", ["dict", "list", "buffer", "global"])
@pytest.mark.parametrize(
    "name", ["GradCAM", "FullGrad", "IntegratedGradients", "AblationCAM", "ShapleyCAM", "SmoothGrad"]
)
def test_caches_made_in_inference_mode(place, name, images):
    GLOBAL.clear()
    model = Cached(place).eval()
    expected = method(name, Cached("dict").eval(), ["conv"])(images, CLASSES)
    with torch.inference_mode():
        model(images)
    assert np.allclose(method(name, model, ["conv"])(images, CLASSES), expected, atol=1e-6)
    with torch.inference_mode():
        assert np.allclose(method(name, model, ["conv"])(images.clone(), CLASSES), expected, atol=1e-6)


def test_caches_made_in_inference_mode_elsewhere(images):
    model = Cached("dict").eval()
    with torch.inference_mode():
        model(images)
    assert DeepFeatureFactorization(model, model.conv)(images, 2)[0].shape == (6, 2)


def test_errors_of_a_model_stay_what_they_are(images):
    class Failing(Small):
        calls = 0

        def forward(self, x):
            raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="^of the model$"):
        GradCAM(Failing().eval(), ["relu"])(images, CLASSES)


# -- lists of images --------------------------------------------------------------------------------------------------


class Detector(Small):
    """Takes a list of images, as torchvision's detectors do, and returns a dict for each."""

    def forward(self, images):
        assert isinstance(images, list)
        scores = super().forward(torch.stack(images))
        return [{"labels": torch.arange(3), "scores": row, "boxes": row[:, None].expand(3, 4)} for row in scores]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "name", ["GradCAM", "EigenCAM", "AblationCAM", "ScoreCAM", "FullGrad", "Occlusion", "IntegratedGradients"]
)
def test_lists_of_images_are_one_argument(count, name, images):
    pictures = list(images[:count])
    targets = [lambda output, c=c: output["scores"][c] for c in CLASSES[:count]]
    found = method(name, Detector().eval(), ["relu"])(pictures, targets)
    expected = method(name, Small().eval(), ["relu"])(images[:count], CLASSES[:count])
    assert np.allclose(found, expected, atol=1e-4)


def test_lists_of_images_of_several_sizes_are_an_error(images):
    with pytest.raises(ValueError, match="the images of a list must have one size: explain them one at a time"):
        GradCAM(Detector().eval(), ["relu"])([images[0], images[1, :, :8]], [len, len])


def test_lists_of_batches_are_arguments(images):
    class Two(Small):
        def forward(self, a, b):
            return super().forward(a) + b.mean()

    found = GradCAM(Two().eval(), ["relu"])([images, images.flip(0)], CLASSES)
    model = Small().eval()
    assert np.allclose(found, finished(grad_cam_maps(model, model.relu, images, CLASSES), (16, 12)), atol=1e-5)


# -- layers with structured outputs -----------------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        return x.mean(dim=(2, 3)), x, None


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.fc = Layer(), nn.Linear(6, 3)

    def forward(self, x):
        vector, features, _ = self.layer(x)
        return self.fc(features.sigmoid().mean(dim=(2, 3)) + vector)


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "AblationCAM", "ScoreCAM", "HiResCAM", "ShapleyCAM"])
def test_reshape_transforms_get_what_the_layer_returns(name, images):
    """The second tensor of a tuple, against the same values from a layer of its own."""

    class Split(Structured):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x):
            vector, features, _ = self.layer(x)
            return self.fc(self.same(features).sigmoid().mean(dim=(2, 3)) + vector)

    torch.manual_seed(1)
    model, split = Structured().eval(), Split().eval()
    split.load_state_dict(model.state_dict())
    found = method(name, model, ["layer"], reshape_transform=lambda output: output[1])(images, CLASSES)
    assert np.allclose(found, method(name, split, ["same"])(images, CLASSES), atol=1e-5)
    assert found.max() == 1


def test_first_of_a_tuple_by_a_transform(images):
    class First(nn.Module):
        def forward(self, x):
            return (x, None)

    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh()), nn.Linear(6, 3)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.first, self.head = body, First(), head

        def forward(self, x):
            return self.head(self.first(self.body(x))[0].mean(dim=(2, 3)))

    model = Network().eval()
    for cam_class in (GradCAM, AblationCAM, ScoreCAM):
        expected = cam_class(model, ["body"])(images, CLASSES)
        for transform in (None, lambda output: output[0], lambda tensor: tensor[:, :, :]):
            assert np.allclose(cam_class(model, ["first"], transform)(images, CLASSES), expected, atol=1e-5)


def test_full_grad_accepts_no_layers_and_inputs_with_gradient(images):
    model = Small().eval()
    assert np.array_equal(FullGrad(model)(images.requires_grad_(), CLASSES), FullGrad(model)(images.detach(), CLASSES))
