"""Errors name fields where they are raised from Python, and flags on the command line."""

import inspect

import numpy as np
import pytest
from small_models import bright_classifier

import crackcam
import inference
import train
import xai
from crackcam import UserError
from crackcam.config import ImagesConfig

IMAGE = np.zeros((20, 20, 3), np.uint8)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: crackcam.TrainConfig(lr=0), "lr: 0 is not a number above 0"),
        (lambda: crackcam.TrainConfig(val_fraction=2), "val_fraction: 2 is not a fraction from 0.01 to 0.9"),
        (lambda: crackcam.TrainConfig(output="x.pth"), "output x.pth must end in .safetensors"),
        (lambda: crackcam.ExplainConfig(aug_smooth=3), "aug_smooth: 3 is not True or False"),
        (lambda: ImagesConfig(image=["a"], type="b"), "image names images itself: leave type and split out"),
        (
            lambda: crackcam.load(device="warp"),
            "device warp is not available here: it is auto, cpu, mps, cuda or cuda:",
        ),
        (lambda: crackcam.load(precision="fp8"), "precision: 'fp8' is not one of auto, fp32, bf16"),
        (
            lambda: bright_classifier().explain(IMAGE, "fullgrad", scales="own"),
            "fullgrad stretches every heatmap to [0, 1], so that tiles do not match: no scales own",
        ),
        (lambda: bright_classifier().explain(IMAGE, "evidence"), "method evidence shows the map of head multiscale"),
        (lambda: crackcam.load("none.onnx"), "no ONNX file at none.onnx: make one with python train.py --export onnx"),
    ],
)
def test_from_python(work, message):
    with pytest.raises(UserError) as caught:
        work()
    assert str(caught.value).startswith(message)
    assert "--" not in str(caught.value).replace("python train.py --export", "")


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (train.main, ["--lr", "0"], "error: argument --lr: '0' is not a number above 0"),
        (train.main, ["--output", "x.pth"], "error: --output x.pth must end in .safetensors"),
        (
            inference.main,
            ["--image", "a", "--type", "b"],
            "error: --image names images itself: leave --type and --split",
        ),
        (xai.main, ["--device", "warp"], "error: --device warp is not available here"),
    ],
)
def test_on_the_command_line(main, words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["no image a --b.jpg", "no image --x", "a--b", "a --- b", "'--x=3'", "make one: python train.py --export onnx"],
)
def test_what_is_not_a_flag_stays(text):
    changed = {"no image --x": "no image x"}
    assert str(UserError(text)) == changed.get(text, text)
    assert UserError(text).with_flags == text


def test_load_has_seven_parameters():
    assert list(inspect.signature(crackcam.load).parameters) == [
        "source", "arch", "classes", "pretrained", "device", "precision", "engine",
    ]  # fmt: skip
