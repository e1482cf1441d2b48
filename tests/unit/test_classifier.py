"""Classifier: predict and explain from every source, a user's own module, errors, files."""

import itertools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import Bright, bright_classifier, bright_corner
from torch import nn

import crackcam
import inference
import xai
from crackcam.data.images import read_image
from crackcam.data.pixels import load_split
from crackcam.errors import UserError

DARK, RED = np.zeros((20, 30, 3), np.uint8), np.full((20, 30, 3), (255, 0, 0), np.uint8)


@pytest.fixture
def model():
    return bright_classifier()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/ with 1.png, which is dark, 2.png and 10.png, which are bright, and notes.txt: the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number, image in ((1, DARK), (2, RED), (10, RED)):
        Image.fromarray(image).save(f"photos/{number}.png")
    Path("photos/notes.txt").write_text("no image")
    return tmp_path


# -- sources -----------------------------------------------------------------------------------------------------------

SINGLE = [
    ("photos/2.png", "photos/2.png"), (Path("photos/2.png"), "photos/2.png"), (RED, None), (Image.fromarray(RED), None),
]  # fmt: skip
SEVERAL = [
    ("photos", ["1", "2", "10"]), (Path("photos"), ["1", "2", "10"]), ("photos/?.png", ["1", "2"]), ("photos/2*", ["2"]),
    (["photos/10.png", "photos/1.png"], ["10", "1"]), (["photos/10.png"], ["10"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "path"), SINGLE, ids=lambda value: type(value).__name__)
def test_a_single_image_has_one_result(model, photos, source, path):
    found = model.predict(source)
    assert isinstance(found, crackcam.Prediction)
    assert (found.label, found.path) == ("bright", path and Path(path))
    logit = 1 - 0.4 + 1  # bright minus dark
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    explained = model.explain(source, "gradcam")
    assert isinstance(explained, crackcam.Explanation)
    assert explained.prediction == found
    assert explained.heatmap.shape == (20, 30)
    assert [each is found for each in found] == [True]


@pytest.mark.parametrize(("source", "names"), SEVERAL, ids=str)
def test_several_images_have_an_iterator(model, photos, source, names):
    for results in (model.predict(source), model.explain(source, "gradcam")):
        assert iter(results) is results
        assert [each.path.stem for each in results] == names


def test_arrays_and_images_in_any_iterable(model):
    for source in (np.stack([DARK, RED]), [DARK, Image.fromarray(RED)], (image for image in (DARK, RED))):
        assert [each.label for each in model.predict(source)] == ["dark", "bright"]
    assert list(model.predict([])) == list(model.explain([], "gradcam")) == []


def test_unreadable_files_in_a_folder_are_skipped_with_a_warning(model, photos, caplog):
    for work in (model.predict, lambda source, **more: model.explain(source, "gradcam", **more)):
        caplog.clear()
        assert len(list(work("photos", batch_size=1))) == 3
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.getMessage() == "skipped photos/notes.txt: not an image"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photos/notes.txt", "photos/notes.txt cannot be read as an image: not an image"),
        ("nowhere.jpg", "no image nowhere.jpg"),
        ("nowhere/*.jpg", "no image nowhere/*.jpg"),
        ([DARK, "nowhere.jpg"], "no image nowhere.jpg"),
        (DARK.astype(float), "an image is an array (H, W, 3) of uint8 in RGB order, not (20, 30, 3) of float64"),
        (None, "NoneType is not an image"),
    ],
    ids=str,
)
def test_what_cannot_be_read(model, photos, source, message):
    for work in (model.predict, lambda source: model.explain(source, "gradcam")):
        with pytest.raises(UserError) as caught:
            list(work(source))
        assert str(caught.value).startswith(message)


def test_an_endless_generator_is_consumed_batch_by_batch(model):
    for work in (model.predict, lambda source, **more: model.explain(source, "gradcam", **more)):
        taken = []
        results = work((taken.append(number) or RED for number in itertools.count()), batch_size=4)
        assert taken == []
        next(results)
        assert len(taken) == 4
        for _ in range(4):
            next(results)
        assert len(taken) == 8


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_an_image_at_least(model, size):
    with pytest.raises(UserError, match="batch_size is a whole number above 0"):
        model.predict([RED], batch_size=size)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_batches_do_not_change_results(model, size):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 20, 3), dtype=np.uint8) for height in (10, 20, 30, 40, 50)]
    alone = [model.predict(image) for image in images]
    for found, expected in zip(model.predict(images, batch_size=size), alone, strict=True):
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    for found, image in zip(model.explain(images, "gradcam", batch_size=size), images, strict=True):
        assert np.allclose(found.heatmap, model.explain(image, "gradcam").heatmap, atol=1e-6)


# -- a user's own module -------------------------------------------------------------------------------------------------


def test_a_module_is_put_into_eval_mode_and_described():
    module = Bright().train()
    model = crackcam.Classifier(module, ("dark", "bright"), device="cpu")
    assert not module.training
    assert model.classes == ["dark", "bright"]
    assert (model.preprocessing.size, model.card.arch) == (224, "Bright")
    assert model.preprocessing.mean == crackcam.Preprocessing().mean


def test_a_module_is_normalised_as_it_was_trained():
    scaled = crackcam.Preprocessing(size=16, mean=(0.5, 0, 0), std=(0.25, 1, 1))
    model = crackcam.Classifier(Bright(), ["dark", "bright"], scaled, device="cpu")
    logit = 2 * (1 - 0.5) / 0.25 - 0.4
    assert model.predict(RED).probabilities["bright"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


@pytest.mark.parametrize(
    ("module", "classes"),
    [
        (Bright(), ["dark", "bright", "third"]),  # two logits
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), ["a", "b"]),  # other inputs
        (nn.Conv2d(3, 2, 1), ["a", "b"]),  # no logits
    ],
)
def test_a_module_that_is_no_such_classifier(module, classes):
    with pytest.raises(UserError):
        crackcam.Classifier(module, classes, crackcam.Preprocessing(size=16), device="cpu")


def test_the_input_is_that_of_training(photos):
    """What training feeds a model and what prediction feeds it is the same array."""
    files = [Path("photos/1.png"), Path("photos/2.png")]
    model = bright_classifier(size=16)
    in_training = load_split("test", ["a"], {"a": files}, model.preprocessing, 1).pixels
    assert torch.equal(in_training, model.to_pixels([read_image(path) for path in files]))


# -- explaining ----------------------------------------------------------------------------------------------------------


def test_the_target_by_name_by_index_or_predicted(model):
    for target, name in (("dark", "dark"), ("DARK", "dark"), (0, "dark"), ("1", "bright"), (None, "bright"), ("predicted", "bright")):  # fmt: skip
        assert model.explain(RED, "gradcam", target).target == name
    assert [each.target for each in model.explain([DARK, RED], "gradcam")] == ["dark", "bright"]


def test_a_target_by_hand(model):
    """Half of the mean in a corner; what supports bright speaks against dark."""
    image = bright_corner()
    bright, dark = (model.explain(image, "gradcam", target, layer="stage") for target in ("bright", "dark"))
    assert bright.layers == ["stage"]
    assert bright.peak() == pytest.approx(1 / 256, rel=1e-5)
    assert dark.peak() == 0
    assert dark.prediction == bright.prediction


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "method: 'magic' is not a method; available: best, all, gradcam"),
        ({"method": "gradcam,cam"}, "one method at a time, not gradcam, cam"),
        ({"method": "all"}, "one method at a time, not gradcam, "),
        ({"target": "Maybe"}, "no class 'Maybe' to explain; available: predicted, dark, bright"),
        ({"target": 2}, "no class '2' to explain"),
        ({"colour": "red"}, "no setting 'colour' of explain(); available: layer, stride, scales"),
        ({"layer": "nowhere"}, "no layer 'nowhere' with a grid; available: red, stage.0"),
        ({"stride": 5}, "stride: 5 is not one of 4, 8, 16"),
        ({"scales": 9}, "scales: 9 is not own, or a number from 0.25 to 8"),
        ({"threshold": -1}, "threshold: -1 is not a number from 0 up"),
        ({"fuse": "mean", "layer": "stage"}, "fuse combines layers, and there is stage alone"),
        ({"method": "evidence"}, "method evidence shows the map of head multiscale: train a model with it"),
        ({"batch_size": 0}, "batch_size is a whole number above 0, not 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_explain_refuses(model, settings, message):
    with pytest.raises(UserError) as caught:
        model.explain(RED, **{"method": "gradcam", **settings})
    assert str(caught.value).startswith(message)


def test_settings_of_the_heatmap(model):
    image = bright_corner()
    plain = model.explain(image, "gradcam", "bright", layer="stage")
    scaled = model.explain(image, "gradcam", "bright", layer="stage", scales=[1, 2])
    assert (plain.map.shape, scaled.map.shape) == ((16, 16), (32, 32))
    assert scaled.peak() == pytest.approx(plain.peak(), rel=1e-4)  # in the unit of the model's own size
    fused = model.explain(image, "gradcam", "bright", layer=["red", "stage"], fuse="product")
    assert fused.layers == ["red", "stage"]
    assert fused.peak() == pytest.approx(1, abs=1e-3)
    assert model.explain(image, "gradcam", threshold=0.5).threshold == 0.5
    assert np.isnan(plain.threshold)
    assert model.explain(image, "gradcam", refine="lines").refine


# -- as the scripts do ----------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(tiny_checkpoint):
    return crackcam.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def walls(tiny_data, tiny_checkpoint, tmp_path, monkeypatch):
    """walls/ with three images of other sizes, and weights/model.safetensors: the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    shutil.copy(tiny_checkpoint, "weights/model.safetensors")
    Path("walls").mkdir()
    for number, path in enumerate(sorted((tiny_data / "test/Positive").iterdir())[:3]):
        image = Image.open(path)
        image.resize((image.width + 40 * number, image.height)).save(f"walls/{number}.png")
    return tmp_path


@pytest.mark.slow
def test_predictions_equal_those_of_the_script(loaded, walls, capsys):
    assert inference.main(["--image", "walls", "--num", "3", "--precision", "fp32", "--device", "cpu"]) == 0
    rows = json.loads(Path("outputs/inference_images.json").read_text())["pictures"]
    script = {row["file"]: row for row in rows}
    found = list(loaded.predict("walls"))
    assert len(script) == len(found) == 3
    for prediction in found:
        assert script[str(prediction.path)] == prediction.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["best", "gradcam"])
def test_explanations_equal_those_of_the_script(loaded, walls, capsys, method):
    flags = [
        "--image",
        "walls",
        "--num",
        "3",
        "--save-maps",
        "maps",
        "--device",
        "cpu",
        "--style",
        "mask",
        "--target",
        "predicted",
    ]
    assert xai.main([*flags, "--method", method, "--threshold", "1e-5"]) == 0
    document = json.loads(Path(f"outputs/xai_images_{method}.json").read_text())
    rows = {row["file"]: row for row in document["pictures"]}
    for found in loaded.explain("walls", method, threshold=1e-5):
        row = rows[str(found.path)]
        entry = row["maps"][found.method]
        assert document["methods"] == {found.method: found.layers}
        assert (row["target"], row["predicted"]) == (found.target, found.prediction.label)
        assert row["probabilities"] == found.prediction.probabilities
        assert np.array_equal(np.load(entry["file"]), found.heatmap)
        assert entry["boxes"] == [list(region.box) for region in found.regions()]
        assert entry["max"] == found.peak()


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_loaded_again(loaded, tmp_path):
    path = loaded.save(tmp_path / "copy.safetensors")
    again = crackcam.load(path, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    assert again.predict(image) == loaded.predict(image)
    assert again.classes == ["Negative", "Positive"]
    half = loaded.save(str(tmp_path / "half.safetensors"), half=True)
    assert half.stat().st_size < 0.6 * max(path.stat().st_size, 4 * sum(t.numel() for t in loaded.model.parameters()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crackcam.load("nowhere.safetensors"), "no checkpoint at nowhere.safetensors"),
        (lambda: crackcam.load("resnet19"), "no architecture 'resnet19' in torchvision"),
        (lambda: crackcam.load(device="warp"), "device warp is not available here"),
        (lambda: crackcam.load(precision="fp8"), "precision: 'fp8' is not one of auto, fp32, bf16"),
        (lambda: crackcam.load("resnet18", pretrained="imagenet"), "pretrained: 'imagenet' is not one of auto, none"),
        (lambda: crackcam.load(pretrained="none"), "holds weights: leave pretrained none out"),
    ],
)
def test_what_cannot_be_loaded(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.slow
def test_an_architecture_with_random_weights():
    model = crackcam.load("squeezenet1_1", pretrained="none", device="cpu")
    assert len(model.classes) == 1000
    found = model.predict(RED)
    assert len(found.top()) == 5
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(model.explain(RED, "gradcam").map).all()


@pytest.mark.slow
def test_the_default_is_the_bundled_crack_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = crackcam.load()
    assert (model.classes, model.path.name) == (["Negative", "Positive"], "crack_efficientnet_lite2.safetensors")


def test_nothing_is_printed(loaded, capsys):
    loaded.predict(RED)
    loaded.explain(RED).regions()
    assert capsys.readouterr() == ("", "")


def test_a_network_of_probabilities_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for last, good in ((nn.Softmax(1), False), (nn.LogSoftmax(1), True), (nn.Identity(), True)):
        network = nn.Sequential(*net, last)
        if good:
            crackcam.Classifier(network, list("abcd"), crackcam.Preprocessing(size=32))
            continue
        with pytest.raises(
            UserError, match="Sequential returns probabilities, .* pass the network without its softmax"
        ):
            crackcam.Classifier(network, list("abcd"), crackcam.Preprocessing(size=32))
