"""Calls of the scripts with --all on the folder tree of the fixture ``flight``, in this process and in others."""

import csv
import json
import os
from pathlib import Path

from conftest import ROOT
from processes import rank_environments, start_python

import inference
import xai
from crackcam.data import listing

SCRIPTS = {"inference.py": inference, "xai.py": xai}
CALLS = {
    "inference.py": ["--image", "flight", "--all", "--batch-size", "4", "--precision", "fp32"],
    "xai.py": ["--image", "flight", "--all", "--batch-size", "4", "--method", "gradcam"],
}
TABLES = {"inference.py": Path("outputs/predictions_images.csv"), "xai.py": Path("outputs/xai_images_gradcam.csv")}


def run(capsys, script, *flags):
    """Exit code, output and messages."""
    code = SCRIPTS[script].main([*CALLS[script], *flags])
    return code, *capsys.readouterr()


def table(path):
    """Rows of a CSV."""
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder="outputs"):
    """All files below, by name; the document beside a table without what differs between calls."""
    found = {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith(".json")]:
        document = json.loads(found[name])
        found[name] = {key: value for key, value in document.items() if key != "command"}
    return found


def expected_files():
    """All files of the tree, in the order of a table."""
    return [str(path) for path in listing.list_files(Path("flight"))]


# -- processes of their own --------------------------------------------------------------------------------------------


SLOWLY = """
import sys, time
import {module}
from crackcam.preprocessing import Preprocessing

real = Preprocessing.apply
Preprocessing.apply = lambda *a: time.sleep(0.01) or real(*a)
sys.exit({module}.main(sys.argv[1:]))
"""


def start(script, *flags, log="log.txt", slowly=False, **environment):
    """Start the script in a process of its own, its output in a file; slowly, so that a moment can be met."""
    program = SLOWLY.format(module=Path(script).stem) if slowly else ROOT / script
    environment = {**os.environ, **environment}
    return start_python(program, *CALLS[script], *flags, out=log, err=log, env=environment, path=[ROOT])


def finish(process):
    """Wait for a process, which must end well."""
    process.join(300)
    assert process.exitcode == 0


def torchrun(script, processes, *flags):
    """Start several processes as torchrun does, without the seconds that it takes."""
    ranks = rank_environments(processes)
    return [start(script, *flags, log=f"log{rank}.txt", **ranks[rank]) for rank in range(processes)]


def lines_in(journal):
    """Complete lines of a file that may not be there yet."""
    try:
        return journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
