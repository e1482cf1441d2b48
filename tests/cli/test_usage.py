"""What bad usage gets: one line, exit 2, and an answer before torch is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import inference
import train
import xai

SCRIPTS = {"train": train.main, "inference": inference.main, "xai": xai.main}

WITHOUT_TORCH = """
import sys
import train, inference, xai
for main in (train.main, inference.main, xai.main):
    assert main(["--help"]) == 0
    assert main(["--nonsense"]) == 2
    assert main(["--device"]) == 2
assert train.main(["--epochs", "-1"]) == 2
assert xai.main(["--method", "magic"]) == 2
assert inference.main(["--num", "0"]) == 2
assert train.main(["--output", "model.pth"]) == 2
heavy = {"torch", "torchvision", "matplotlib", "cv2", "sklearn", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_usage_errors_do_not_import_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("xai", ["--method", "magic"], "no method 'magic'; there are: best, all, gradcam, scorecam, gradcam++"),
        ("xai", ["--type", "Maybe"], "no class 'Maybe' in the test split; there are: Negative, Positive"),
        ("inference", ["--type", "Maybe"], "no class 'Maybe' in the test split; there are: Negative, Positive"),
        ("xai", ["--target", "Maybe"], "no class 'Maybe' to explain; there are: predicted, Negative, Positive"),
        ("inference", ["--data", "nowhere"], "no data folder nowhere"),
        ("inference", ["--weights", "none.safetensors"], "no checkpoint at none.safetensors: run python train.py"),
        ("xai", ["--weights", "none.safetensors"], "run python train.py first"),
        ("inference", ["--image", "nowhere.jpg"], "no picture nowhere.jpg"),
        ("inference", ["--image", "README", "--type", "Positive"], "leave --type and --split out"),
        ("inference", ["--split", "train", "--data", "data/test"], "no train split in data/test"),
        ("inference", ["--output", "grid.jpg"], "must end in .png"),
        ("inference", ["--all", "--output", "table.png"], "must end in .csv"),
        ("xai", ["--output", "blocked/grid.png"], "cannot write blocked/grid.png"),
        ("inference", ["--output", "blocked/grid.png"], "cannot write blocked/grid.png"),
        ("inference", ["--device", "warp"], "--device warp is not available here"),
        ("inference", ["--num", "0"], "'0' is not a whole number above 0"),
        ("train", ["--val-fraction", "nan"], "'nan' is not a fraction"),
        ("train", ["--lr", "-1"], "'-1' is not a number above 0"),
        ("train", ["--arch", "resnet19"], "no architecture 'resnet19' in torchvision; close to it: resnet1"),
        ("train", ["--pretrained", "nowhere.pth"], "no weights file at nowhere.pth"),
        ("train", ["--output", "model.pth"], "must end in .safetensors"),
    ],
)  # fmt: skip
def test_mendable_errors_are_one_line_and_exit_2(place, capsys, script, flags, message):
    Path("blocked").write_text("a file where a folder should be")
    assert SCRIPTS[script](flags) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == ""
    assert len(errors) == 1
    assert err.splitlines()[-1] == errors[0]
    assert message in errors[0]
    assert "Traceback" not in err


def test_a_missing_system_library_is_named(capsys):
    from crackcam.cli import console

    @console.command
    def main(argv=None):
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: a system library is missing (libGL.so.1: cannot open shared object file: No such file or directory); "
        "opencv-python-headless needs none\n"
    )


def test_our_own_faults_show_a_traceback():
    from crackcam.cli import console

    @console.command
    def main(argv=None):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        main([])


def test_full_disk_is_one_line(capsys):
    from crackcam.cli import console

    @console.command
    def main(argv=None):
        raise OSError(28, "No space left on device", "outputs/grid.png")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: No space left on device: outputs/grid.png\n"


def test_a_reader_that_goes_is_no_error():
    """Of `xai.py --list-layers | head`: as other programs do, silently."""
    code = """
import sys
from crackcam import console
@console.command
def main(argv=None):
    print("x" * size)
    return sys.exit() if leaves else 0
raise SystemExit(main([]))
"""
    for setting in ("size, leaves = 1, False", "size, leaves = 1, True", "size, leaves = 10**6, False"):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-c", f"{setting}{code}"]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, "")


def test_interrupted_write_leaves_the_old_file(tmp_path):
    from crackcam.files import write_atomically

    path = tmp_path / "result.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_scripts_stay_readable():
    for script in SCRIPTS:
        text = (ROOT / f"{script}.py").read_text()
        assert len(text.splitlines()) <= 250
        assert text.count("add_argument(") <= 30
        assert "def build_parser()" in text
