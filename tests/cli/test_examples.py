"""examples/ci.sh: with what the scripts print, and (make torture) run as a CI job would."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import inference
import train
import xai

FLAGS = "--epochs 1 --image-size 64 --pretrained none --workers 0 --batch-size 8"
CALLS = [
    ("training", train, f"{FLAGS} --json"),
    ("predictions", inference, "--all --json"),
    ("explanations", xai, "--json"),
]
# Stands for python: answers the three calls, and no others, with what main() printed; all else is python.
STAND_IN = """#!/usr/bin/env bash
case "$(basename "$1") ${{*:2}}" in
{calls}
*.py*) echo "not expected: $*" >&2; exit 2 ;;
*) exec "{python}" "$@" ;;
esac
"""


def gate(python, threshold):
    environment = {**os.environ, "PYTHON": str(python), "THRESHOLD": threshold, "TRAIN_FLAGS": FLAGS}
    return subprocess.run([ROOT / "examples/ci.sh"], env=environment, capture_output=True, text=True)


def test_ci_gate(fresh, capsys):
    calls = []
    for name, script, flags in CALLS:
        assert script.main(flags.split()) == 0
        (fresh.root / f"{name}.printed").write_text(capsys.readouterr().out)
        calls.append(f'"{script.__name__}.py {flags}") cat {name}.printed ;;')
    stand_in = fresh.root / "python"
    stand_in.write_text(STAND_IN.format(calls="\n".join(calls), python=sys.executable))
    stand_in.chmod(0o755)
    for threshold, code in {"0.2": 0, "1.01": 1}.items():
        done = gate(stand_in, threshold)
        assert done.returncode == code, done.stderr
        accuracy = json.loads((fresh.root / "predictions.json").read_text())["accuracy"]
        assert f"accuracy {accuracy:.4f} on 12 pictures, {threshold} wanted" in done.stdout
        assert "Positive: precision" in done.stdout
        assert "heat maps: outputs/xai_Positive_best.png" in done.stdout
    stand_in.write_text("#!/bin/sh\nexit 2\n")
    assert gate(stand_in, "0.2").returncode == 2


@pytest.mark.torture
@pytest.mark.parametrize(("threshold", "code"), [("0.2", 0), ("1.01", 1)])
def test_ci_gate_in_processes(fresh, threshold, code):
    done = gate(sys.executable, threshold)
    assert done.returncode == code, done.stderr
    assert f"on 12 pictures, {threshold} wanted" in done.stdout
    assert "heat maps: outputs/xai_Positive_best.png" in done.stdout
    written = {"training.json", "predictions.json", "explanations.json"}
    assert written <= {p.name for p in fresh.root.iterdir()}
