"""What a script chooses or replaces, it says in one line; and one image has one probability."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crackcam
import inference
import xai

QUICK = ["--device", "cpu"]


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("main", [inference.main, lambda flags: xai.main([*flags, "--method", "gradcam"])])
def test_a_folder_of_which_some_are_drawn(place, without_figures, capsys, main):
    assert main([*QUICK, "--image", "data/test", "--num", "3"]) == 0
    expected = "3 of 12 files, drawn by --seed 0: --num N draws more, --all takes every one"
    assert expected in lines_of(capsys)
    assert main([*QUICK, "--image", "data/test", "--num", "12"]) == 0
    assert not [line for line in lines_of(capsys) if "drawn by" in line]


def test_outputs_that_are_replaced(place, capsys):
    flags = [*QUICK, "--num", "1", "--output", "outputs/mine.png", "--report", "outputs/mine.html"]
    assert inference.main(flags) == 0
    assert not [line for line in lines_of(capsys) if "replacing" in line]
    assert inference.main(flags) == 0
    assert "replacing outputs/mine.png, outputs/mine.html" in lines_of(capsys)
    assert xai.main([*flags, "--method", "gradcam"]) == 0
    assert "replacing outputs/mine.png, outputs/mine.html" in lines_of(capsys)


def test_a_table_that_is_replaced_and_one_that_is_resumed(place, capsys):
    flags = [*QUICK, "--all", "--output", "outputs/mine.csv"]
    assert inference.main(flags) == 0
    lines_of(capsys)
    assert inference.main(flags) == 0
    assert "replacing outputs/mine.csv" in lines_of(capsys)
    assert inference.main([*flags, "--resume"]) == 0
    assert not [line for line in lines_of(capsys) if "replacing" in line]


def test_an_image_of_a_pixel(place, capsys):
    Image.fromarray(np.full((1, 1, 3), 99, np.uint8)).save("dot.png")
    Image.fromarray(np.full((3, 300, 3), 99, np.uint8)).save("line.png")
    for main in (inference.main, xai.main):
        assert main([*QUICK, "--image", "dot.png", "line.png"]) == 0
        found = [line for line in lines_of(capsys) if line.startswith("warning")]
        assert found == [
            "warning: dot.png has 1 x 1 pixels: too few to see anything, so its result means nothing",
            "warning: line.png has 300 x 3 pixels: too few to see anything, so its result means nothing",
        ]


def test_one_probability_for_one_image(place, without_figures, capsys, monkeypatch):
    """Also where the processor has bf16, which is left to --precision auto."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    flags = [*QUICK, "--num", "4"]
    assert inference.main(flags) == 0
    predicted = json.loads(Path("outputs/inference_Positive.json").read_text())
    assert "machine: cpu, fp32" in lines_of(capsys)
    assert xai.main([*flags, "--method", "gradcam", "--layer", "layer3"]) == 0
    explained = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert "machine: cpu, fp32" in lines_of(capsys)
    assert [row["file"] for row in predicted["pictures"]] == [row["file"] for row in explained["pictures"]]
    model = crackcam.load("weights/model.safetensors", device="cpu")
    for one, other in zip(predicted["pictures"], explained["pictures"], strict=True):
        for name, value in one["probabilities"].items():
            assert other["probabilities"][name] == pytest.approx(value, abs=2e-6)
            assert model.predict(one["file"]).probabilities[name] == pytest.approx(value, abs=2e-6)


def test_auto_says_what_it_chose(place, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert inference.main([*QUICK, "--num", "1", "--precision", "auto"]) == 0
    assert "machine: cpu, bf16 (native on this processor)" in lines_of(capsys)
