"""xai.py --anatomy: the figure, and its numbers in the document."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import crackcam
import xai
from crackcam.explain.anatomy import gradcam_steps
from crackcam.models.target_layers import find_target_layers


def document():
    return json.loads(Path("outputs/xai_Positive_anatomy.json").read_text())


def test_figure_and_document(place, capsys):
    assert xai.main(["--anatomy", "--num", "1", "--layer", "layer3", "--save-maps", "maps"]) == 0
    assert capsys.readouterr().out == "wrote outputs/xai_Positive_anatomy.png, outputs/xai_Positive_anatomy.json\n"
    found = document()
    (row,) = found["pictures"]
    assert (found["layer"], found["stride"], row["target"]) == ("layer3", None, "Positive")
    width, height = Image.open(found["picture"]).size
    assert 1000 < height < width < 2000
    model = crackcam.load("weights/model.safetensors", device="cpu")
    (layer,) = find_target_layers(model.model, 64, ["layer3"])
    image = model.explain(row["file"], "gradcam").image
    steps = gradcam_steps(model, layer, model.to_pixels([image]), model.classes.index("Positive"))
    assert row["weights"] == pytest.approx(steps.weights.tolist(), abs=1e-6)
    assert len(row["weights"]) == 192


def test_the_target_and_a_dilated_model(place, tiny_checkpoint, capsys):
    shutil.copy(tiny_checkpoint, "weights/model.safetensors")  # the other network cannot be dilated
    assert xai.main(["--anatomy", "--num", "1", "--stride", "8", "--target", "Negative"]) == 0
    found = document()
    assert (found["layer"], found["stride"], found["pictures"][0]["target"]) == ("features", 8, "Negative")
