"""Networks with a multiscale head through the scripts."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_TRAINING

import inference
import train
import xai
from crackcam.data import images
from crackcam.models import checkpoint
from crackcam.models.multiscale import Multiscale

pytestmark = pytest.mark.usefixtures("without_figures")

CPU = torch.device("cpu")


@pytest.mark.torture
def test_a_trained_head_is_trained_on(fresh, capsys):
    arguments = ["--image-size", "64", "--batch-size", "8", "--workers", "0", "--head", "multiscale"]
    assert (
        train.main([*arguments, "--pretrained", "none", "--epochs", "1", "--output", "weights/first.safetensors"]) == 0
    )
    first, _ = checkpoint.load(fresh.root / "weights/first.safetensors", CPU)
    again = ["--pretrained", "weights/first.safetensors", "--epochs", "1", "--lr", "1e-9"]
    assert train.main([*arguments, *again]) == 0
    second, _ = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert second.class_mask.tolist() == [0, 1]
    assert not torch.equal(first.scale, second.scale)  # the temperature was applied again
    torch.testing.assert_close(first.maps[3][1].weight, second.maps[3][1].weight, rtol=1e-3, atol=1e-5)


def test_training_and_explaining_one(fresh, capsys):
    arguments = [*TINY_TRAINING, "--epochs", "1", "--arch", "timm/test_resnet"]
    assert train.main([*arguments, "--head", "multiscale", "--half", "--json"]) == 0
    capsys.readouterr()
    network, card = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert set(card.thresholds["evidence"]) == {"Negative", "Positive"}
    assert isinstance(network, Multiscale)
    assert card.head == "multiscale"
    assert card.training["mix_sample"] is None
    tensors = checkpoint.read_tensors(fresh.root / "weights/model.safetensors")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert json.loads(json.dumps(card.metrics))["test"]["accuracy"] >= 0
    assert xai.main(["--num", "1", "--save-maps", "maps", "--style", "mask", "--resize"]) == 0
    assert "best: --method evidence\n" in capsys.readouterr().err
    row = json.loads(Path("outputs/xai_Positive_best.json").read_text())["pictures"][0]
    assert row["maps"]["evidence"]["threshold"] == card.thresholds["evidence"]["Positive"]
    heatmap = np.load(row["maps"]["evidence"]["file"])
    preprocessing = card.preprocessing
    pixels = torch.from_numpy(preprocessing.apply(images.read_image(Path(row["file"])))).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
    with torch.no_grad():
        evidence = network.evidence((pixels / 255 - mean) / std)[:, 1:].sigmoid()
    expected = torch.nn.functional.interpolate(evidence, (64, 64), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.interpolate(expected, heatmap.shape, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(heatmap, expected.numpy(), atol=1e-4)
    assert xai.main(["--method", "gradcam,layercam,eigencam,evidence", "--num", "1"]) == 0
    assert xai.main(["--method", "evidence", "--scales", "1,2", "--num", "1"]) == 0
    assert xai.main(["--method", "evidence", "--aug-smooth"]) == 2
    assert "is the decision itself" in capsys.readouterr().err


def test_small_images_are_scored_as_inference_sees_them(fresh):
    """They are trained on at their own size, and padded to that of the network."""
    arguments = ["--pretrained", "none", "--arch", "timm/test_resnet", "--epochs", "1", "--workers", "0"]
    flags = ["--image-size", "288", "--head", "multiscale", "--mix-sample", "0", "--precision", "fp32"]
    assert train.main([*arguments, *flags]) == 0
    _, card = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert (card.image_size, card.max_scale) == (288, 1.0)
    assert {row["size"] for row in csv.DictReader(Path("outputs/training.csv").open())} == {"128"}  # 4/7 of 224
    assert inference.main(["--all", "--precision", "fp32"]) == 0
    rows = list(csv.DictReader(Path("outputs/predictions_all.csv").open()))
    losses = [-math.log(float(row[f"p_{row['true']}"])) for row in rows]
    assert np.mean(losses) == pytest.approx(card.metrics["test"]["loss"], abs=2e-4)
