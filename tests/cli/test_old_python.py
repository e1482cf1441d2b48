"""A Python that is too old, or has no packages: one line with the remedy, exit 2."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from processes import run_python

READ_BY_OLD = ["train.py", "inference.py", "xai.py", "crackcam/__init__.py", "crackcam/__main__.py", "crackcam/_engine.py", "crackcam/errors.py", "crackcam/cli/__init__.py"]  # fmt: skip
STARTS = [["train.py"], ["inference.py", "--all"], ["xai.py"], ["-m", "crackcam", "train"], ["-m", "crackcam"]]
AS_OLD = """
import runpy, sys
sys.version_info = (3, 9, 18, "final", 0)
if sys.argv[1] == "-m":
    runpy.run_module("crackcam", run_name="__main__")
runpy.run_path(sys.argv[1], run_name="__main__")
"""
WITHOUT = """
import runpy, sys
package, script, *sys.argv[1:] = sys.argv[1:]
sys.modules[package] = None
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("path", READ_BY_OLD)
def test_what_an_old_python_reads_it_understands(path):
    text = (ROOT / path).read_text()
    ast.parse(text, feature_version=(3, 7))
    assert "from __future__ import annotations" not in text  # not of Python 3.6


@pytest.mark.parametrize("words", STARTS, ids=" ".join)
def test_a_python_that_is_too_old(words):
    done = run(sys.executable, "-c", AS_OLD, *words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr == (
        f"error: Requires Python 3.11+, this is 3.9.18 ({sys.executable}): "
        "run make demo PYTHON=python3.11, then . .venv/bin/activate\n"
    )


def test_from_python_it_is_an_import_error():
    code = "import sys; sys.version_info = (3, 10, 1); import crackcam\ntry: crackcam.load\nexcept ImportError as e: print(e)"
    assert run(sys.executable, "-c", code).stdout.startswith("Requires Python 3.11+, this is 3.10.1 (")


def old_pythons():
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    named = filter(None, map(shutil.which, ("python3.9", "python3.10")))
    return [str(path) for path in [*found, *map(Path, named)]]


@pytest.mark.torture
@pytest.mark.parametrize("words", STARTS, ids=" ".join)
def test_real_old_pythons(words):
    tried = 0
    for python in old_pythons():
        version = run(python, "-c", "import sys; print(sys.version_info >= (3, 11))")
        if version.stdout == "False\n":
            done = run(python, *words)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith("error: Requires Python 3.11+, this is 3.")
            assert done.stderr.count("\n") == 1
            tried += 1
    if not tried:
        pytest.skip("no Python older than 3.11 here")


@pytest.mark.parametrize(("package", "script"), [("torch", "xai.py"), ("numpy", "train.py"), ("PIL", "inference.py")])
def test_a_python_without_packages(package, script):
    done = run(sys.executable, "-c", WITHOUT, package, script, "--device", "cpu")
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"error: no package {package} for {sys.executable}: "
        "activate the environment (. .venv/bin/activate), or install what is missing (pip install .)\n"
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug():
    done = run_python(WITHOUT, "crackcam.classifier", "xai.py", cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
