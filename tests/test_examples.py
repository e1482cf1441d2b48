"""examples/ci.sh, run as a CI job would."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize(("threshold", "code"), [("0.2", 0), pytest.param("1.01", 1, marks=pytest.mark.torture)])
def test_ci_gate(fresh, threshold, code):
    flags = "--epochs 1 --image-size 64 --pretrained none --workers 0 --batch-size 8"
    environment = {**os.environ, "PYTHON": sys.executable, "THRESHOLD": threshold, "TRAIN_FLAGS": flags}
    done = subprocess.run([ROOT / "examples/ci.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert f"on 12 pictures, {threshold} wanted" in done.stdout
    assert "heat maps: outputs/xai_Positive_best.png" in done.stdout
    written = {"training.json", "predictions.json", "explanations.json"}
    assert written <= {p.name for p in fresh.root.iterdir()}
