"""What a model's output is: scores, structures, rows; and in which forms targets may be given."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, finished, grad_cam_maps, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    FinerCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    Occlusion,
    ScoreCAM,
)
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    SemanticSegmentationTarget,
)


@pytest.fixture
def images():
    return small_images()


class Dense(nn.Module):
    """Scores (N, 4, H, W), as a tensor or as segmentation networks return them."""

    def __init__(self, form=lambda scores: scores):
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.head, self.form = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), form

    def forward(self, x):
        return self.form(self.head(torch.tanh(self.enc(x))))


# -- a class index needs one score per class --------------------------------------------------------------------------

FORMS_OF_DENSE = {
    "tensor": lambda s: s,
    "out": lambda s: {"out": s, "aux": s[:, :1]},
    "logits": lambda s: {"logits": s},
    "tokens": lambda s: s.flatten(2).transpose(1, 2),
}


@pytest.mark.parametrize("form", FORMS_OF_DENSE)
@pytest.mark.parametrize("target", [1, ClassifierOutputTarget(1), ClassifierOutputSoftmaxTarget(1)])
@pytest.mark.parametrize("cam_class", [GradCAM, AblationCAM, FullGrad, Occlusion])
def test_a_class_of_a_dense_output_is_an_error(form, target, cam_class, images):
    with pytest.raises(ValueError, match=r"a class index needs one score per class.*SemanticSegmentationTarget"):
        cam_class(Dense(FORMS_OF_DENSE[form]).eval(), ["enc"])(images, [target] * 4)


@pytest.mark.parametrize("form", ["tensor", "out", "logits"])
def test_segmentation_targets_equal_plain_hooks(form, images):
    model, mask = Dense(FORMS_OF_DENSE[form]).eval(), np.zeros((16, 12), bool)
    mask[:5, :6] = True
    activations = model.enc(images)
    scores = model.head(torch.tanh(activations))
    (gradients,) = torch.autograd.grad(scores[:, 2, :5, :6].sum(), activations)
    expected = finished((gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(1), (16, 12))
    found = GradCAM(model, ["enc"])(images, [SemanticSegmentationTarget(2, mask)] * 4)
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("category", [3, 10, -4])
@pytest.mark.parametrize("target", [int, ClassifierOutputSoftmaxTarget])
def test_classes_that_do_not_exist_are_errors(category, target, images):
    with pytest.raises(IndexError, match=f"no class {category}: the model has 3 classes, 0 to 2"):
        GradCAM(Small().eval(), ["relu"])(images, [target(category)] * 4)


# -- several outputs --------------------------------------------------------------------------------------------------

Named = namedtuple("Named", ["embedding", "head"])


@dataclass
class Data:
    embedding: torch.Tensor
    head: torch.Tensor
    note: str = "no tensor"


@dataclass
class WithLogits:
    embedding: torch.Tensor
    logits: torch.Tensor


AMBIGUOUS = {
    "tuple": (lambda e, s: (e, s), lambda o: o[1]),
    "list": (lambda e, s: [e, s], lambda o: o[1]),
    "dict": (lambda e, s: {"embedding": e, "head": s}, lambda o: o["head"]),
    "named tuple": (Named, lambda o: o.head),
    "dataclass": (Data, lambda o: o.head),
    "nested": (lambda e, s: {"a": (e, {"b": s})}, lambda o: o["a"][1]["b"]),
    "two logits": (lambda e, s: {"student": {"logits": s}, "teacher": {"logits": e}}, lambda o: o["student"]["logits"]),
}
CLEAR = {
    "nested logits": lambda e, s: {"heads": {"logits": s}, "embedding": e},
    "logits of a dataclass": WithLogits,
    "None": lambda e, s: (None, s),
    "scores and features": lambda e, s: (e[:, :, None], s),
}


class TwoHeads(Small):
    """An embedding and logits."""

    def __init__(self, form):
        super().__init__()
        self.form, self.embed = form, nn.Linear(8, 5)

    def forward(self, x):
        features = self.relu(self.conv2(torch.relu(self.bn1(self.conv1(x))))).mean(dim=(2, 3))
        return self.form(self.embed(features), self.fc(features))


@pytest.mark.parametrize("form", AMBIGUOUS)
def test_ambiguous_outputs_need_a_target_which_sees_all_of_them(form, images):
    make, head = AMBIGUOUS[form]
    model = TwoHeads(make).eval()
    plain = TwoHeads(lambda e, s: s).eval()
    targets = [lambda output, c=c: head(output)[c] for c in CLASSES]
    for cam_class in (GradCAM, ScoreCAM, AblationCAM, FullGrad, Occlusion):
        expected = cam_class(plain, ["relu"])(images, CLASSES)
        assert np.allclose(cam_class(model, ["relu"])(images, targets), expected, atol=1e-5), cam_class.__name__
        for unclear in (CLASSES, None, [ClassifierOutputTarget(1)] * 4):
            with pytest.raises(ValueError, match=r"returns several tensors.*\(\d, 5\).*pass targets that choose one"):
                cam_class(model, ["relu"])(images, unclear)
    assert GuidedBackpropReLUModel(model).gradients(images, targets).shape == images.shape


@pytest.mark.parametrize("form", CLEAR)
def test_scores_are_found_by_name_or_where_only_one_tensor_is_possible(form, images):
    model, plain = TwoHeads(CLEAR[form]).eval(), TwoHeads(lambda e, s: s).eval()
    for targets in (CLASSES, None):
        assert np.array_equal(GradCAM(model, ["relu"])(images, targets), GradCAM(plain, ["relu"])(images, targets))


def test_methods_without_a_target_do_not_read_the_output(images):
    model = TwoHeads(AMBIGUOUS["tuple"][0]).eval()
    assert np.array_equal(EigenCAM(model, ["relu"])(images), EigenCAM(Small().eval(), ["relu"])(images))


def test_metrics_see_the_whole_output_too(images):
    model, plain = TwoHeads(AMBIGUOUS["dict"][0]).eval(), TwoHeads(lambda e, s: s).eval()
    maps, targets = torch.rand(4, 16, 12), [lambda output: output["head"][1]] * 4
    change = CamMultImageConfidenceChange()
    assert np.allclose(change(images, maps, targets, model), change(images, maps, [1] * 4, plain), atol=1e-6)


# -- rows -------------------------------------------------------------------------------------------------------------


class Frames(Small):
    """The frames of a video are a batch; their scores are averaged (TSN)."""

    def forward(self, x):
        return super().forward(x).mean(dim=0, keepdim=True)


def test_frames_of_a_video_share_one_target(images):
    """Against plain hooks: a target for the output, a map for each frame."""
    model = Frames().eval()
    kept = []
    handle = model.relu.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    scores = model(images)
    handle.remove()
    (gradients,) = torch.autograd.grad(scores[0, 2], kept[0])
    expected = finished((gradients.mean(dim=(2, 3), keepdim=True) * kept[0].detach()).sum(1), (16, 12))
    for targets in ([2], 2, [ClassifierOutputTarget(2)], [lambda output: output[2]]):
        found = GradCAM(model, ["relu"])(images, targets)
        assert found.shape == (4, 16, 12)
        assert np.allclose(found, expected, atol=1e-5)
    assert np.array_equal(GradCAM(model, ["relu"])(images), GradCAM(model, ["relu"])(images, [int(scores.argmax())]))
    with pytest.raises(ValueError, match="4 targets for 4 images, which the model merges into 1 outputs"):
        GradCAM(model, ["relu"])(images, CLASSES)
    for cam_class in (AblationCAM, ScoreCAM, Occlusion):
        with pytest.raises(ValueError, match=f"{cam_class.__name__} runs images one by one, and the model merges 4"):
            cam_class(model, ["relu"])(images, [2])


class Clips(Small):
    """Clips (N, T, C, H, W): frames become a batch."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(dim=1)


def test_clips_get_a_map_for_each_frame(images):
    clips = images.reshape(2, 2, 3, 16, 12)
    found = GradCAM(Clips().eval(), ["relu"])(clips, [1, 2])
    assert np.allclose(found, GradCAM(Small().eval(), ["relu"])(images, [1, 1, 2, 2]), atol=1e-5)


class Pairs(nn.Module):
    """Both images of a pair run as one batch: the layer has twice as many rows as images."""

    def __init__(self):
        super().__init__()
        self.small = Small()

    def forward(self, a, b):
        return self.small(torch.cat([a, b])).reshape(2, len(a), 3).prod(dim=0)


def test_rows_that_are_no_images_are_an_error(images):
    with pytest.raises(ValueError, match="the target layer has 8 maps for 4 images"):
        GradCAM(Pairs().eval(), ["small.relu"])((images, images.flip(0)), CLASSES)


@pytest.mark.parametrize("layer", ["fc", "embed"])
def test_layers_without_positions_are_an_error(layer, images):
    model = TwoHeads(lambda e, s: (e, s)).eval()
    with pytest.raises(ValueError, match=r"target layer returns \(4, \d\), not \(images, channels, \*spatial\)"):
        GradCAM(model, [layer])(images, [lambda output: output[0].sum() + output[1].sum()] * 4)


class Squeezed(Small):
    def forward(self, x):
        return super().forward(x).squeeze()


class OneLogit(Small):
    def forward(self, x):
        return super().forward(x)[:, 1].squeeze()


METHODS = (GradCAM, ScoreCAM, AblationCAM, FullGrad, Occlusion)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("cam_class", METHODS)
def test_squeezed_outputs(count, cam_class, images):
    squeezed, plain, x = Squeezed().eval(), Small().eval(), images[:count]
    for targets in (CLASSES[:count], None, [ClassifierOutputSoftmaxTarget(1)] * count, [lambda o: o[2]] * count):
        found, expected = (cam_class(model, ["relu"])(x, targets) for model in (squeezed, plain))
        assert np.allclose(found, expected, atol=1e-5)
    single = OneLogit().eval()
    expected = cam_class(plain, ["relu"])(x, [1] * count)
    for targets in ([0] * count, [BinaryClassifierOutputTarget(1)] * count, [lambda o: o] * count):
        assert np.allclose(cam_class(single, ["relu"])(x, targets), expected, atol=1e-5)


def test_a_single_logit_without_batch_dimension_explains_the_predicted_side(images):
    single = OneLogit().eval()
    for x in (images, images[:1]):
        sides = [BinaryClassifierOutputTarget(int(logit > 0)) for logit in single(x).reshape(-1)]
        assert np.array_equal(GradCAM(single, ["relu"])(x), GradCAM(single, ["relu"])(x, sides))


def test_the_binary_target_refuses_several_logits(images):
    with pytest.raises(ValueError, match="for a single logit, not 3: pass a class index"):
        GradCAM(Small().eval(), ["relu"])(images, [BinaryClassifierOutputTarget(1)] * 4)


@pytest.mark.parametrize("cam_class", METHODS)
def test_lists_with_a_row_of_scores_for_each_image(cam_class, images):
    class Rows(Small):
        def forward(self, x):
            return list(super().forward(x))

    model, plain = Rows().eval(), Small().eval()
    expected = cam_class(plain, ["relu"])(images, CLASSES)
    for targets in (CLASSES, [lambda row, c=c: row[c] for c in CLASSES]):
        assert np.allclose(cam_class(model, ["relu"])(images, targets), expected, atol=1e-5)


# -- forms of targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [1, np.int64(1), np.array(1), torch.tensor(1)])
def test_one_number_is_the_class_of_every_image(one, images):
    model = Small().eval()
    expected = GradCAM(model, ["relu"])(images, [1] * 4)
    assert np.array_equal(GradCAM(model, ["relu"])(images, one), expected)
    assert np.array_equal(FinerCAM(model, ["relu"])(images, one), FinerCAM(model, ["relu"])(images, [1] * 4))


@pytest.mark.parametrize(
    "form", [tuple, np.array, torch.tensor, lambda c: [*map(torch.tensor, c)], lambda c: [*map(np.int32, c)]]
)
def test_class_indices_of_any_type(form, images):
    model = Small().eval()
    found, expected = (GradCAM(model, ["relu"])(images, targets) for targets in (form(CLASSES), CLASSES))
    assert np.array_equal(found, expected)
    assert np.allclose(found, finished(grad_cam_maps(model, model.relu, images, CLASSES), (16, 12)), atol=1e-5)


def test_none_in_a_list_is_the_predicted_class(images):
    model = Small().eval()
    predicted = model(images).argmax(dim=1).tolist()
    mixed = [None, 1, None, lambda output: output[0]]
    expected = GradCAM(model, ["relu"])(images, [predicted[0], 1, predicted[2], 0])
    assert np.array_equal(GradCAM(model, ["relu"])(images, mixed), expected)


@pytest.mark.parametrize("bad", [True, np.bool_(True), torch.tensor(True), 1.5, "1", torch.eye(3)[0], {}, ...])
def test_what_is_no_target_is_an_error(bad, images):
    with pytest.raises(TypeError, match="a target is a class index, a callable or None, not"):
        GradCAM(Small().eval(), ["relu"])(images, [bad] * 4)


@pytest.mark.parametrize(
    "number",
    [lambda o: 1, lambda o: o.argmax(), lambda o: o[0].item(), lambda o: o[0].detach(), lambda o: np.float32(1)],
)
def test_a_number_without_gradient_is_an_error_that_says_so(number, images):
    model = Small().eval()
    targets = [0, 1, 2, number]
    for explain in (GradCAM(model, ["relu"]), FullGrad(model), GuidedBackpropReLUModel(model).gradients):
        with pytest.raises(ValueError, match="returned a number without a gradient; compute it from the output by"):
            explain(images, targets)


def test_methods_without_gradients_accept_plain_numbers(images):
    model = Small().eval()
    for cam_class in (ScoreCAM, AblationCAM, Occlusion):
        found = cam_class(model, ["relu"])(images, [lambda output: float(output[1])] * 4)
        assert np.allclose(found, cam_class(model, ["relu"])(images, [1] * 4), atol=1e-6)


@pytest.mark.parametrize("nothing", [None, True, "text"])
def test_a_target_that_returns_no_number_is_an_error(nothing, images):
    with pytest.raises(TypeError, match="a target must return a scalar tensor, not"):
        GradCAM(Small().eval(), ["relu"])(images, [lambda output: nothing] * 4)
