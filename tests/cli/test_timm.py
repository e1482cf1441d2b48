"""Architectures of timm through the scripts."""

from pathlib import Path

import numpy as np
import pytest

import inference
import train
import xai

QUICK = ["--pretrained", "none", "--epochs", "1", "--workers", "0", "--batch-size", "8"]
METHODS = ["gradcam", "eigencam", "layercam", "scorecam"]


@pytest.mark.parametrize("arch", ["timm/test_vit", "timm/test_byobnet"])
def test_timm_models_are_trained_predicted_and_explained(fresh, without_figures, arch):
    assert train.main(["--arch", arch, *QUICK]) == 0
    assert inference.main(["--type", "Positive", "--num", "2"]) == 0
    flags = ["--type", "Negative", "--num", "1", "--method", ",".join(METHODS), "--save-maps", "maps"]
    assert xai.main(flags) == 0
    heatmaps = [np.load(path) for path in Path("maps").iterdir()]
    assert len(heatmaps) == len(METHODS)
    assert all(np.isfinite(heatmap).all() and heatmap.min() >= 0 for heatmap in heatmaps)


@pytest.mark.torture
def test_heatmaps_of_a_vision_transformer_are_those_of_the_package(fresh, capsys):
    assert train.main(["--arch", "timm/test_vit", *QUICK]) == 0
    capsys.readouterr()
    assert xai.main(["--num", "2", "--method", "gradcam,layercam", "--verify"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()[1:3]] == ["same", "same"], out
