"""examples/: the CI gate, with what the scripts print and (make torture) as a CI job runs it; the notebook."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from processes import run_python

import inference
import train
import xai
from crackcam.config import SizesConfig
from crackcam.data.capture import read_capture

FLAGS = "--epochs 1 --image-size 64 --pretrained none --workers 0 --batch-size 8 --arch timm/test_resnet"
# Stands for python: writes down the calls of scripts, and answers each with a file; all else is python.
STAND_IN = """#!/usr/bin/env bash
case "$1" in
*.py) echo "$(basename "$1") ${{*:2}}" >>calls; cat "$(basename "$1" .py).printed" ;;
*) exec "{python}" "$@" ;;
esac
"""


def gate(python, threshold, train_flags):
    environment = {**os.environ, "PYTHON": str(python), "THRESHOLD": threshold, "TRAIN_FLAGS": train_flags}
    return subprocess.run([ROOT / "examples/ci.sh"], env=environment, capture_output=True, text=True)


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_ci_gate(fresh, stand_in, capsys):
    """With what the scripts print."""
    shutil.move("data", "photos")
    scripts = {
        train: f"{FLAGS} --data photos --json",
        inference: "--data photos --all --json",
        xai: "--data photos --json",
    }
    for script, flags in scripts.items():
        assert script.main(flags.split()) == 0
        Path(f"{script.__name__}.printed").write_text(capsys.readouterr().out)
    for threshold, code in {"0.2": 0, "1.01": 1}.items():
        done = gate(stand_in, threshold, f"{FLAGS} --data photos")
        assert done.returncode == code, done.stderr
        accuracy = json.loads(Path("predictions.json").read_text())["accuracy"]
        assert f"accuracy {accuracy:.4f} on 12 images, required: {threshold}" in done.stdout
        assert "\n  Negative: precision " in done.stdout
        assert "\n  Positive: precision " in done.stdout
        assert "heatmaps: outputs/xai_Positive_best.png" in done.stdout
    expected = [f"{script.__name__}.py {flags}" for script, flags in scripts.items()]
    assert Path("calls").read_text().splitlines() == expected * 2
    stand_in.write_text("#!/bin/sh\nexit 2\n")
    assert gate(stand_in, "0.2", FLAGS).returncode == 2


@pytest.mark.parametrize("data", ["", " --data photos", " --data=photos"])
def test_ci_gate_passes_data_on(tmp_path, stand_in, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    row = {"file": "a.png", "maps": {"gradcam": {"max": 0.0}}}
    answers = {
        "train": {"split": "val", "val": {"per_class": {}}},
        "inference": {"accuracy": 0.5, "pictures": 4, "unreadable": 0},
        "xai": {"picture": "outputs/a.png", "pictures": [row]},
    }
    for name, answer in answers.items():
        Path(f"{name}.printed").write_text(json.dumps(answer))
    done = gate(stand_in, "0.5", f"--epochs 1{data}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heatmaps: outputs/a.png; no evidence in a.png\n")
    assert Path("calls").read_text().splitlines() == [
        f"train.py --epochs 1{data} --json",
        f"inference.py{data} --all --json",
        f"xai.py{data} --json",
    ]


@pytest.mark.torture
@pytest.mark.parametrize(("threshold", "code"), [("0.2", 0), ("1.01", 1)])
def test_ci_gate_in_processes(fresh, threshold, code):
    shutil.move("data", "photos")
    done = gate(sys.executable, threshold, f"{FLAGS} --data photos")
    assert done.returncode == code, done.stderr
    assert f"on 12 images, required: {threshold}" in done.stdout
    assert "heatmaps: outputs/xai_Positive_best.png" in done.stdout
    written = {"training.json", "predictions.json", "explanations.json"}
    assert written <= {p.name for p in Path().iterdir()}


NOTEBOOK = ROOT / "examples/crackcam.ipynb"
SMALLER = {'{"train": 24, "test": 8}': '{"train": 6, "test": 2}', 'arch="resnet18"': 'arch="timm/test_resnet"'}


def test_code_of_the_notebook_runs(tmp_path, monkeypatch):
    """In this process, with fewer images and a smaller network; what a cell ends with is shown."""
    monkeypatch.chdir(tmp_path)
    names, shown = {}, []
    document = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    for text, smaller in SMALLER.items():
        assert sum(text in cell for cell in cells) == 1
        cells = [cell.replace(text, smaller) for cell in cells]
    for cell in cells:
        body = ast.parse(cell).body
        ends = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if ends is not None:
            shown.append(eval(compile(ast.Expression(ends.value), "cell", "eval"), names))
    assert sum(isinstance(value, Image.Image) and value.size == (227, 227) for value in shown) == 2
    assert Path("overlay.png").is_file()
    assert names["result"].metrics["test"]["accuracy"] >= 0


@pytest.mark.torture
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.slow
def test_a_generated_flight_is_one_of_a_camera(tmp_path):
    """From a checkout, where nothing is installed: the photographs have places, times and a scale; the truth lies beside."""
    done = run_python(ROOT / "examples/inspection_flight.py", "flight", "--count", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "python xai.py --image flight --all --style mask --report --distance 2 --sensor-width "
    )
    first, second = (read_capture(tmp_path / f"flight/DJI_000{number}.JPG") for number in (1, 2))
    assert (first.latitude, first.altitude, first.focal_length_mm) == (pytest.approx(46.9481), 540, 24)
    east = (second.longitude - first.longitude) * 111_320 * np.cos(np.radians(first.latitude))
    assert east == pytest.approx(0.9, abs=0.01)
    assert (second.time - first.time).total_seconds() == 7
    scale = second.scale(SizesConfig(distance=2, sensor_width=13.2))
    assert scale.mm_per_pixel == pytest.approx(2000 * 13.2 / (24 * 2400))
    lines = (tmp_path / "flight_truth.csv").read_text().splitlines()
    assert lines[:2] == ["image,crack,width_px", "DJI_0001.JPG,False,"]
    assert lines[2].startswith("DJI_0002.JPG,True,")
