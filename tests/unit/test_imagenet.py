"""ImageNet networks without any training: preprocessing, class names, heatmaps put back onto the image."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import crackcam
from crackcam.models import pretrained, registry
from crackcam.preprocessing import Preprocessing
from crackcam.render import overlays

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ARCH = "squeezenet1_0"


@pytest.fixture
def imagenet(monkeypatch):
    """Random numbers in the place of ImageNet's weights: nothing is downloaded."""

    def state(arch, may_download):
        torch.manual_seed(0)
        return torchvision.models.get_model(arch, weights=None).state_dict()

    monkeypatch.setattr(pretrained, "imagenet_state", state)


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((480, 240), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("arch", ["squeezenet1_0", "efficientnet_b0", "convnext_tiny"])
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (37, 91), (256, 256)])
def test_preprocessing_is_that_of_the_weights(arch, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    transforms = registry.weights_entry(arch).transforms()
    preprocessing = registry.pretrained_config(arch).preprocessing
    pixels = torch.from_numpy(preprocessing.apply(image).copy()).permute(2, 0, 1)[None]
    assert torch.allclose(preprocessing.normalize(pixels, CPU)[0], transforms(Image.fromarray(image)), atol=1e-6)


def test_a_heatmap_is_put_back_where_it_came_from():
    """A 200 x 400 image, brought to 50 x 100, of which 40 x 40 in the middle are seen: columns 120 to 280."""
    image = np.full((200, 400, 3), 100, np.uint8)
    preprocessing = Preprocessing(40, 50)
    assert preprocessing.seen(200, 400) == (slice(20, 180), slice(120, 280))
    seen = torch.zeros(40, 40)
    seen[10, 30] = 1
    prediction = crackcam.Prediction.of(["a", "b"], [1, 0])
    explanation = crackcam.Explanation(image, prediction, "a", "gradcam", ["layer"], seen, preprocessing)
    whole = explanation.heatmap
    assert whole[:20].max() == whole[180:].max() == whole[:, :120].max() == whole[:, 280:].max() == 0
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert 20 + 10 * 4 <= row < 20 + 11 * 4
    assert 120 + 30 * 4 <= column < 120 + 31 * 4
    drawn = explanation.draw(overlays.choose_style("overlay", None))
    assert (drawn[:, :120] == 100).all()  # what was cropped away is shown as it is
    assert (drawn[row, column] != 100).any()


def test_the_five_most_probable_of_a_thousand(photo, imagenet):
    found = crackcam.load(ARCH, device="cpu")
    assert found.card.pretrained == "SqueezeNet1_0_Weights.IMAGENET1K_V1 of torchvision"
    model = torchvision.models.squeezenet1_0(weights=None)
    model.load_state_dict(pretrained.imagenet_state(ARCH, may_download=False))
    weights = torchvision.models.SqueezeNet1_0_Weights.DEFAULT
    with torch.no_grad():
        probabilities = model.eval()(weights.transforms()(photo)[None]).softmax(1)[0]
    expected = probabilities.topk(5)
    prediction = found.predict(photo)
    assert len(prediction.probabilities) == 1000
    assert list(prediction.top()) == [weights.meta["categories"][i] for i in expected.indices]
    assert list(prediction.top().values()) == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert found.explain(photo, method="gradcam").target == prediction.label


@pytest.mark.parametrize("target", ["tabby", "TABBY", "281", 281])
def test_a_class_by_name_or_index(photo, imagenet, target):
    assert crackcam.load(ARCH, device="cpu").explain(photo, method="gradcam", target=target).target == "tabby"


def test_an_unknown_class_names_those_like_it(photo, imagenet):
    with pytest.raises(crackcam.UserError) as error:
        crackcam.load(ARCH, device="cpu").explain(photo, target="shark")
    expected = "no class 'shark' to explain; available: predicted, similar: great white shark, tiger shark;"
    assert str(error.value).startswith(expected)
    assert len(str(error.value)) < 200


def test_globs_and_folders(tmp_path, photo, imagenet):
    for name in ("a/1.png", "a/2.png", "b/3.png", "photo.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / name)
    model = crackcam.load(ARCH, device="cpu")
    found = [p.path for p in model.predict([tmp_path / "a/*.png", str(tmp_path / "b"), tmp_path / "photo.png"])]
    assert found == [tmp_path / name for name in ("a/1.png", "a/2.png", "b/3.png", "photo.png")]
    with pytest.raises(crackcam.UserError, match=r"no image .*c/\*.png"):
        list(model.predict(tmp_path / "c/*.png"))


def test_without_the_weights_it_says_which(monkeypatch):
    def unavailable(arch, may_download):
        raise pretrained.WeightsUnavailableError("no route to host")

    monkeypatch.setattr(pretrained, "imagenet_state", unavailable)
    with pytest.raises(crackcam.UserError, match="no ImageNet weights for vgg16: no route to host"):
        crackcam.load("vgg16")


# -- real weights and photographs ------------------------------------------------------------------------------------


def test_photographs_are_recognised(real_data, imagenet_weights):
    expected = ["goldfish", "tiger_shark", "zebra", "pizza", "balloon"]
    files = [next(iter((real_data / "photos").glob(f"*_{name}.jpg"))) for name in expected]
    assert [p.label.replace(" ", "_") for p in crackcam.load(ARCH).predict(files)] == expected


def test_the_dog_and_the_cat(real_data, imagenet_weights):
    """The dog is in the upper left part, the cat in the lower right one: each heatmap peaks on its own animal."""
    path, model = Path(real_data / "photos/dog_and_cat.png"), crackcam.load(ARCH)
    for target, part in (("bull mastiff", "upper"), ("tiger cat", "lower"), ("tabby", "lower")):
        heatmap = model.explain(path, target=target).heatmap
        row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
        assert (row < heatmap.shape[0] / 2) == (part == "upper"), target
        assert (column < heatmap.shape[1] / 2) == (part == "upper"), target
