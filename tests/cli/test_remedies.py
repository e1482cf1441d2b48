"""What a first call gets wrong: one line that ends with what to type."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inference
import train
import xai
from crackcam.cli import commands

SCRIPTS = {"train": train.main, "inference": inference.main, "xai": xai.main}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The working directory: images with all kinds of names, and no weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loose").mkdir()
    for name in ("a.jpg", "b.jpg", "my wall.jpg", "loose/1.jpg", "loose/2.jpg"):
        Image.fromarray(np.full((40, 60, 3), 150, np.uint8)).save(name)
    return tmp_path


def error_of(capsys, code):
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.splitlines()[-1] == error
    return error


@pytest.mark.parametrize(
    ("script", "words", "remedy"),
    [
        ("xai", ["a.jpg"], "type python SCRIPT --image a.jpg"),
        ("inference", ["a.jpg", "b.jpg"], "type python SCRIPT --image a.jpg"),
        ("xai", ["--method", "gradcam", "a.jpg"], "type python SCRIPT --image a.jpg"),
        ("xai", ["nowhere.jpg"], "type python SCRIPT --image nowhere.jpg"),
        ("xai", ["my", "wall.jpg"], "quote a name with spaces: --image 'my wall.jpg'"),
        ("inference", ["--weights", "my", "wall.jpg"], "quote a name with spaces: --weights 'my wall.jpg'"),
        ("train", ["loose"], "type python SCRIPT --data loose"),
        ("xai", ["--treshold", "3"], "did you mean --threshold?"),
        ("train", ["--epoch=3", "--bach-size=3"], "did you mean --batch-size?"),
    ],
)
def test_words_that_belong_to_no_flag(photos, capsys, monkeypatch, script, words, remedy):
    monkeypatch.setattr("sys.argv", [f"{script}.py"])
    error = error_of(capsys, SCRIPTS[script](words))
    assert error.startswith("error: unrecognized arguments: ")
    assert f": {remedy.replace('SCRIPT', f'{script}.py')} (see python {script}.py --help)" in error


def test_the_console_script_names_itself(photos, capsys):
    error = error_of(capsys, commands.main(["explain", "a.jpg"]))
    assert ": type crackcam explain --image a.jpg (see" in error


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["my", "wall.jpg"], "no image my: quote a name with spaces: --image 'my wall.jpg'"),
        (["a.jpg", "my", "wall.jpg"], "no image my: quote a name with spaces: --image 'my wall.jpg'"),
        (["a.jpg,b.jpg"], "no image a.jpg,b.jpg: separate names by spaces: --image a.jpg b.jpg"),
        (["a.jpg,my wall.jpg"], "no image a.jpg,my wall.jpg: separate names by spaces: --image a.jpg 'my wall.jpg'"),
        (["my wal.jpg"], "no image my wal.jpg: did you mean --image 'my wall.jpg'?"),
        (["loose/1.jpeg"], "no image loose/1.jpeg: did you mean --image loose/1.jpg?"),
    ],
)
def test_names_of_images(photos, tiny_checkpoint, capsys, words, remedy):
    for main in (inference.main, xai.main):
        code = main(["--image", *words, "--weights", str(tiny_checkpoint)])
        assert error_of(capsys, code) == f"error: {remedy}"


@pytest.mark.parametrize(
    ("script", "flag"), [("xai", "--weights"), ("inference", "--weights"), ("train", "--pretrained")]
)
def test_a_folder_of_weights(photos, capsys, tiny_checkpoint, script, flag):
    Path("weights").mkdir()
    shutil.copy(tiny_checkpoint, "weights/own.safetensors")
    (photos / "data/train/a").mkdir(parents=True)
    (photos / "data/train/b").mkdir()
    for name in ("a", "b"):
        for number in range(8):
            shutil.copy("a.jpg", f"data/train/{name}/{number}.jpg")
    error = error_of(capsys, SCRIPTS[script]([flag, "weights"]))
    assert error == "error: weights is a folder: name a file in it, weights/own.safetensors"


def test_a_folder_without_weights(photos, capsys):
    error = error_of(capsys, inference.main(["--weights", "loose", "--image", "a.jpg"]))
    assert error == "error: loose is a folder: there are no weights in it"


def test_a_folder_of_loose_images(photos, capsys):
    error = error_of(capsys, inference.main(["--data", "loose"]))
    assert error == "error: loose has images and no class folders: name it with --image loose"
    error = error_of(capsys, inference.main(["--data", "a.jpg"]))
    assert error == "error: a.jpg is a file, not a folder of classes: name it with --image a.jpg"
    error = error_of(capsys, train.main(["--data", "loose"]))
    assert error == (
        "error: loose has images and no class folders: move them into, say, "
        "loose/train/cracked/ and loose/train/sound/ (data/README.md)"
    )


def test_one_file_that_is_no_image_is_named_with_its_reason(photos, tiny_checkpoint, capsys):
    Path("clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    for main in (inference.main, xai.main):
        error = error_of(capsys, main(["--image", "clip.mp4", "--weights", str(tiny_checkpoint)]))
        assert error.startswith("error: clip.mp4 cannot be read as an image: ")


def test_the_data_folder_of_a_fresh_clone_holds_no_images(photos, capsys, monkeypatch):
    """README.md alone: an example of an error, and a place for the generated sample."""
    monkeypatch.setattr("crackcam.data.synthetic.sample.COUNTS", {"train": 4, "test": 2})
    Path("data").mkdir()
    Path("data/README.md").write_text("# data")
    error = error_of(capsys, inference.main([]))
    assert error.startswith("error: no class folders in data: see data/README.md")
    flags = ["--pretrained", "none", "--image-size", "32", "--epochs", "1", "--workers", "0", "--arch", "squeezenet1_1"]
    assert train.main(["--sample", *flags]) == 0
    assert {path.name for path in Path("data").iterdir()} == {"README.md", "train", "test", "masks"}
