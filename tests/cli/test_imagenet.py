"""ImageNet networks of torchvision, without any training: preprocessing, names, maps put back onto the picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import inference
import xai
from crackcam import runtime
from crackcam.data import images
from crackcam.explain import heatmaps
from crackcam.models import pretrained, registry
from crackcam.preprocessing import Preprocessing
from crackcam.render import overlays


@pytest.fixture
def imagenet(monkeypatch):
    """Random numbers in the place of ImageNet's weights: nothing is downloaded."""

    def state(arch):
        torch.manual_seed(0)
        return torchvision.models.get_model(arch, weights=None).state_dict()

    monkeypatch.setattr(pretrained, "imagenet_state", state)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A wide picture in an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 240), Image.Resampling.BICUBIC).save("photo.png")
    return Path("photo.png")


def result_of(main, capsys, *flags):
    code = main([*flags, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("arch", ["squeezenet1_0", "efficientnet_b0", "convnext_tiny"])
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (37, 91), (256, 256)])
def test_preprocessing_is_that_of_the_weights(arch, size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    recipe = registry.weights_entry(arch).transforms()
    preprocessing = Preprocessing(recipe.crop_size[0], recipe.resize_size[0], recipe.interpolation.value)
    expected = recipe(Image.fromarray(picture))
    pixels = torch.from_numpy(preprocessing.apply(picture).copy()).permute(2, 0, 1)[None]
    found = runtime.Runtime(torch.device("cpu"), torch.float32, recipe.mean, recipe.std).input(pixels)[0]
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_map_is_put_back_where_it_came_from():
    """A 200 x 400 picture, brought to 50 x 100, of which 40 x 40 in the middle are seen: columns 120 to 280."""
    picture = np.zeros((200, 400, 3), np.uint8)
    preprocessing = Preprocessing(40, 50)
    assert preprocessing.seen(200, 400) == (slice(20, 180), slice(120, 280))
    heat = torch.zeros(40, 40)
    heat[10, 30] = 1
    whole = heatmaps.at_picture_size(heat, picture, preprocessing)
    assert whole[:20].max() == whole[180:].max() == whole[:, :120].max() == whole[:, 280:].max() == 0
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert 20 + 10 * 4 <= row < 20 + 11 * 4
    assert 120 + 30 * 4 <= column < 120 + 31 * 4
    over = heatmaps.drawn(heat, picture + 100, preprocessing, overlays.choose_style("overlay", None))
    assert (over[:, :120] == 100).all()  # what was cropped away is shown as it is


def test_top_five_of_a_thousand(photo, imagenet, capsys):
    document = result_of(xai.main, capsys, "--arch", "squeezenet1_0", "--image", "photo.png")
    assert document["checkpoint"] == {
        "file": "SqueezeNet1_0_Weights.IMAGENET1K_V1 of torchvision", "sha256": None, "arch": "squeezenet1_0",
    }  # fmt: skip
    assert document["classes"] == 1000
    (row,) = document["pictures"]
    model = torchvision.models.squeezenet1_0(weights=None)
    model.load_state_dict(pretrained.imagenet_state("squeezenet1_0"))
    weights = torchvision.models.SqueezeNet1_0_Weights.DEFAULT
    with torch.no_grad():
        chances = model.eval()(weights.transforms()(Image.open(photo).convert("RGB"))[None]).softmax(1)[0]
    expected = chances.topk(5)
    assert list(row["probabilities"]) == [weights.meta["categories"][i] for i in expected.indices]
    assert list(row["probabilities"].values()) == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert row["target"] == row["predicted"] == next(iter(row["probabilities"]))
    assert Image.open("outputs/xai_images_best.png").format == "PNG"


def test_top_k(photo, imagenet, capsys):
    document = result_of(inference.main, capsys, "--arch", "squeezenet1_0", "--image", "photo.png", "--top-k", "7")
    assert len(document["pictures"][0]["probabilities"]) == 7


@pytest.mark.parametrize("text", ["tabby", "TABBY", "281"])
def test_a_class_by_name_or_index(photo, imagenet, capsys, text):
    document = result_of(xai.main, capsys, "--arch", "squeezenet1_0", "--image", "photo.png", "--target", text)
    assert document["target"] == "tabby"
    assert document["pictures"][0]["target"] == "tabby"


def test_an_unknown_class_names_those_like_it(photo, imagenet, capsys):
    assert xai.main(["--arch", "squeezenet1_0", "--image", "photo.png", "--target", "shark"]) == 2
    err = capsys.readouterr().err
    assert "no class 'shark' to explain; there are: predicted, close to it: great white shark, tiger shark;" in err
    assert err.count("\n") < 6


def test_globs_and_folders(photo, imagenet, capsys):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(name)
    document = result_of(inference.main, capsys, "--arch", "squeezenet1_0", "--image", "a/*.png", "b", "photo.png")
    assert sorted(row["file"] for row in document["pictures"]) == ["a/1.png", "a/2.png", "b/3.png", "photo.png"]
    assert inference.main(["--arch", "squeezenet1_0", "--image", "c/*.png"]) == 2
    assert "no picture c/*.png" in capsys.readouterr().err


def test_class_folders_mean_nothing_to_an_imagenet_network(place, imagenet, capsys):
    assert xai.main(["--arch", "squeezenet1_0"]) == 2
    assert "has classes of its own, not those of a folder: name pictures with --image" in capsys.readouterr().err


def test_without_the_weights_it_says_which(photo, monkeypatch, capsys):
    def unavailable(arch):
        raise pretrained.WeightsUnavailableError("no route to host")

    monkeypatch.setattr(pretrained, "imagenet_state", unavailable)
    assert xai.main(["--arch", "vgg16", "--image", "photo.png"]) == 2
    assert "error: no ImageNet weights for vgg16: no route to host" in capsys.readouterr().err
    assert not list(Path("outputs").glob("*.png"))


def test_all_pictures_of_a_folder_into_a_table(photo, imagenet, capsys):
    """--all reads pictures already cropped: they must not be cropped twice."""
    shown = result_of(inference.main, capsys, "--arch", "squeezenet1_0", "--image", "photo.png", "--precision", "fp32")
    result_of(inference.main, capsys, "--arch", "squeezenet1_0", "--image", "photo.png", "--all", "--precision", "fp32")
    header, line = Path("outputs/predictions_images.csv").read_text().splitlines()
    assert header.count(",p_") == 1000
    best = max(map(float, line.split(",")[3:1003]))
    assert best == pytest.approx(max(shown["pictures"][0]["probabilities"].values()), abs=1e-5)


# -- real weights and photographs ------------------------------------------------------------------------------------


def test_photographs_are_recognised(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wanted = ["goldfish", "tiger_shark", "zebra", "pizza", "balloon"]
    files = [next(iter((real_data / "photos").glob(f"*_{name}.jpg"))) for name in wanted]
    document = result_of(inference.main, capsys, "--arch", "squeezenet1_0", "--image", *map(str, files))
    assert [row["predicted"].replace(" ", "_") for row in document["pictures"]] == wanted


def test_the_dog_and_the_cat(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    """One picture, the dog in its upper left part and the cat in its lower right: each map peaks on its own animal."""
    monkeypatch.chdir(tmp_path)
    picture = real_data / "photos/dog_and_cat.png"
    height, width = images.read_image(picture).shape[:2]
    for target, part in (("bull mastiff", "upper"), ("tiger cat", "lower"), ("tabby", "lower")):
        result_of(
            xai.main, capsys, "--arch", "squeezenet1_0", "--image", str(picture), "--target", target, "--save-maps", "m"
        )
        heat = np.load("m/dog_and_cat.npy")
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert (row < height / 2) == (part == "upper"), target
        assert (column < width / 2) == (part == "upper"), target
