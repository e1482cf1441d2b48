"""ImageNet networks of torchvision through the scripts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import inference
import xai
from crackcam.models import pretrained

FLAGS = ["--arch", "squeezenet1_0", "--image", "photo.png"]


@pytest.fixture
def imagenet(monkeypatch):
    """Random numbers in the place of ImageNet's weights: nothing is downloaded."""

    def state(arch, may_download):
        torch.manual_seed(0)
        return torchvision.models.get_model(arch, weights=None).state_dict()

    monkeypatch.setattr(pretrained, "imagenet_state", state)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A wide image in an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 240), Image.Resampling.BICUBIC).save("photo.png")
    return Path("photo.png")


def result_of(main, capsys, *flags):
    code = main([*flags, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_top_five_of_a_thousand(photo, imagenet, capsys):
    document = result_of(xai.main, capsys, *FLAGS, "--target", "tabby")
    assert document["checkpoint"] == {
        "file": "SqueezeNet1_0_Weights.IMAGENET1K_V1 of torchvision",
        "sha256": None,
        "arch": "squeezenet1_0",
    }
    assert document["classes"] == 1000
    assert document["target"] == "tabby"
    (row,) = document["pictures"]
    assert len(row["probabilities"]) == 5
    assert row["predicted"] == next(iter(row["probabilities"]))
    assert row["target"] == "tabby"
    assert Image.open("outputs/xai_images_best.png").format == "PNG"


def test_top_k_and_globs_and_folders(photo, imagenet, capsys):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(name)
    document = result_of(inference.main, capsys, *FLAGS, "a/*.png", "b", "--top-k", "7")
    assert sorted(row["file"] for row in document["pictures"]) == ["a/1.png", "a/2.png", "b/3.png", "photo.png"]
    assert {len(row["probabilities"]) for row in document["pictures"]} == {7}
    assert inference.main(["--arch", "squeezenet1_0", "--image", "c/*.png"]) == 2
    assert "error: no image c/*.png" in capsys.readouterr().err


def test_an_unknown_class_is_one_line(photo, imagenet, capsys):
    assert xai.main([*FLAGS, "--target", "shark"]) == 2
    err = capsys.readouterr().err
    assert "no class 'shark' to explain; available: predicted, similar: great white shark, tiger shark;" in err
    assert err.count("\n") < 6


def test_class_folders_mean_nothing_to_an_imagenet_network(place, imagenet, capsys):
    assert xai.main(["--arch", "squeezenet1_0"]) == 2
    assert "has classes of its own, not those of a folder: name images with --image" in capsys.readouterr().err


def test_without_the_weights_nothing_is_drawn(photo, monkeypatch, capsys):
    def unavailable(arch, may_download):
        raise pretrained.WeightsUnavailableError("no route to host")

    monkeypatch.setattr(pretrained, "imagenet_state", unavailable)
    assert xai.main(["--arch", "vgg16", "--image", "photo.png"]) == 2
    assert "error: no ImageNet weights for vgg16: no route to host" in capsys.readouterr().err
    assert not list(Path("outputs").glob("*.png"))


def test_all_images_of_a_folder_into_a_table(photo, imagenet, capsys):
    """--all reads images already cropped: they must not be cropped twice."""
    shown = result_of(inference.main, capsys, *FLAGS, "--precision", "fp32")
    result_of(inference.main, capsys, *FLAGS, "--all", "--precision", "fp32")
    header, line = Path("outputs/predictions_images.csv").read_text().splitlines()
    assert header.count(",p_") == 1000
    best = max(map(float, line.split(",")[3:1003]))
    assert best == pytest.approx(max(shown["pictures"][0]["probabilities"].values()), abs=1e-5)
