"""What bad usage gets: one line, exit 2, and an answer before torch is loaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import inference
import train
import xai
from crackcam.cli import commands, console
from crackcam.files import write_atomically

SCRIPTS = {"train": train.main, "inference": inference.main, "xai": xai.main}

WITHOUT_TORCH = """
import sys
import train, inference, xai
from crackcam.cli import commands
for main in (train.main, inference.main, xai.main):
    assert main(["--help"]) == 0
    assert main(["--nonsense"]) == 2
    assert main(["--device"]) == 2
assert commands.main(["--help"]) == commands.main(["explain", "--help"]) == 0
assert commands.main(["nonsense"]) == commands.main(["predict", "--num"]) == 2
assert train.main(["--epochs", "-1"]) == 2
assert xai.main(["--method", "magic"]) == 2
assert xai.main(["--all", "--metrics"]) == 2
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
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("xai", ["--method", "magic"], "'magic' is not a method; available: best, all, gradcam, scorecam, gradcam++"),
        ("xai", ["--type", "Maybe"], "no class 'Maybe' in the test split of data; available: Negative, Positive"),
        ("inference", ["--type", "Maybe"], "no class 'Maybe' in the test split of data; available: Negative, Positive"),
        ("xai", ["--target", "Maybe"], "no class 'Maybe' to explain; available: predicted, Negative, Positive"),
        ("inference", ["--data", "nowhere"], "no data folder nowhere"),
        ("inference", ["--weights", "none.safetensors"], "no checkpoint at none.safetensors: run python train.py"),
        ("xai", ["--weights", "none.safetensors"], "run python train.py first"),
        ("inference", ["--image", "nowhere.jpg"], "no image nowhere.jpg"),
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
        ("train", ["--arch", "resnet19"], "no architecture 'resnet19' in torchvision; did you mean resnet1"),
        ("train", ["--pretrained", "nowhere.pth"], "no weights file at nowhere.pth"),
        ("train", ["--output", "model.pth"], "must end in .safetensors"),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line_and_exit_2(place, capsys, script, flags, message):
    Path("blocked").write_text("a file where a folder should be")
    assert SCRIPTS[script](flags) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == ""
    assert len(errors) == 1
    assert err.splitlines()[-1] == errors[0]
    assert message in errors[0]
    assert "Traceback" not in err


def test_the_console_script(place, capsys):
    """The same parsers and the same results as the scripts at the root."""
    assert commands.main(["predict", "--num", "1", "--device", "cpu"]) == 0
    own = Path("outputs/inference_Positive.png").read_bytes()
    assert capsys.readouterr().out.endswith("wrote outputs/inference_Positive.png, outputs/inference_Positive.json\n")
    assert inference.main(["--num", "1", "--device", "cpu"]) == 0
    assert Path("outputs/inference_Positive.png").read_bytes() == own
    capsys.readouterr()
    for words, message in (
        ([], None),
        (["--help"], None),
        (["explore"], "argument command: invalid choice: 'explore' (choose from 'train', 'predict', 'explain')"),
        (["explain", "--num"], "argument --num: expected one argument (see crackcam explain --help)"),
    ):
        assert commands.main(words) == (2 if message else 0)
        out, err = capsys.readouterr()
        assert message in err if message else "crackcam" in out


def test_our_own_faults_show_a_traceback():
    @console.command
    def main(argv=None):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        main([])


def test_a_closed_pipe_is_no_error():
    """Of `xai.py --list-layers | head`: as other programs do, silently."""
    code = """
import sys
from crackcam.cli import console
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
    path = tmp_path / "result.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_thin(script):
    text = (ROOT / f"{script}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert "add_argument" not in text


@pytest.mark.parametrize(
    ("script", "flags", "kept"),
    [
        ("inference", ["--image", "walls", "--output", "walls/wall.png"], "walls/wall.png"),
        ("xai", ["--image", "walls/wall.png", "--output", "linked/wall.png"], "linked/wall.png"),
        ("xai", ["--image", "walls/wall.png", "--masks", "masks", "--output", "masks/wall.png"], "masks/wall.png"),
        ("train", ["--verdicts", "outputs/training.csv", "--verdict-images", "walls"], "outputs/training.csv"),
    ],
)
def test_what_a_run_reads_is_not_written_over(place, capsys, script, flags, kept):
    for folder in ("walls", "masks"):
        Path(folder).mkdir()
        shutil.copyfile(min(Path("data/masks").rglob("*.png")), f"{folder}/wall.png")
    Path("linked").symlink_to("walls")
    before = Path(kept).read_bytes()
    assert SCRIPTS[script](flags) == 2
    reason = f"error: this run reads {kept}, and would replace it: choose another name for the output"
    assert capsys.readouterr().err.splitlines()[-1] == reason
    assert Path(kept).read_bytes() == before
