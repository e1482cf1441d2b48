"""train.py --verdicts: regions that a person judged become training images."""

import json
from pathlib import Path

import pytest
from conftest import TINY_TRAINING, tiny_config
from PIL import Image
from safetensors import safe_open

import crackcam
import train
from crackcam.data import images
from crackcam.data.splits import plan_splits
from crackcam.data.verdicts import read_verdicts
from crackcam.training import resume

HEAD = "image,region,x,y,width,height,verdict\n"
FLAGS = ["--verdicts", "verdicts.csv", "--verdict-images", "flight"]


@pytest.fixture
def judged(fresh):
    """flight/north/: a photograph of 454 x 227, a cracked half beside a sound one; verdicts.csv about three regions."""
    halves = [images.read_image(min(Path("data/train", name).iterdir())) for name in ("Positive", "Negative")]
    photograph = Image.new("RGB", (454, 227))
    for place, half in enumerate(halves):
        photograph.paste(Image.fromarray(half), (227 * place, 0))
    Path("flight/north").mkdir(parents=True)
    photograph.save("flight/north/p.png")
    rows = ["p.png,1,10,100,180,20,accept", "p.png,2,300,100,30,20,reject", "p.png,3,400,50,9,9,"]
    Path("verdicts.csv").write_text(HEAD + "\n".join(rows))
    return fresh


def card():
    with safe_open("weights/model.safetensors", "pt") as file:
        return json.loads(file.metadata()["crackcam"])


def test_judged_regions_are_training_images(judged, caplog):
    caplog.set_level("INFO")
    result = crackcam.train(
        tiny_config(arch="squeezenet1_1", epochs=1, verdicts="verdicts.csv", verdict_images="flight")
    )
    assert "verdicts: 3 tiles of Positive and 1 tile of Negative from 1 image, in the training split" in caplog.text
    assert card()["training"]["verdict_tiles"] == {"Positive": 3, "Negative": 1}
    assert {name: len(split) for name, split in result.splits.items()} == {"train": 20 + 4, "val": 4, "test": 12}
    photograph = Path("flight/north/p.png")
    found = {name: split.paths.count(photograph) for name, split in result.splits.items()}
    assert found == {"train": 4, "val": 0, "test": 0}
    assert result.splits["train"].labels[-4:].tolist() == [1, 1, 1, 0]
    pixels = images.read_image(photograph)
    for tile, left in zip(result.splits["train"].pixels[-4:], (10, 68, 126, 283), strict=True):
        assert (tile.permute(1, 2, 0).numpy() == pixels[78:142, left : left + 64]).all()


def test_other_verdicts_are_another_run(judged):
    """Neither the name of the file nor that of the folder matters."""
    plan = plan_splits(Path("data"), 0.15, 0)
    given = tiny_config(verdicts="verdicts.csv", verdict_images="flight")
    renamed = tiny_config(verdicts="kept.csv", verdict_images="photographs")
    verdicts = read_verdicts(Path("verdicts.csv"))
    state = resume.StateFile(Path("weights/model.resume"), resume.identity(given, plan, verdicts))
    state.check({"run": resume.identity(renamed, plan, verdicts)})
    without = resume.identity(tiny_config(), plan)
    with pytest.raises(crackcam.UserError, match="belongs to a run with verdicts None, not "):
        state.check({"run": without})
    before = {name: value for name, value in without.items() if name != "verdicts"}  # a state of an earlier version
    resume.StateFile(state.path, without).check({"run": before})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (FLAGS[:2], "error: --verdicts and --verdict-images belong together"),
        (FLAGS[2:], "error: --verdicts and --verdict-images belong together"),
        (["--verdicts", "none.csv", *FLAGS[2:]], "error: cannot read none.csv: no such file or directory"),
        (["--verdicts", "bad.csv", *FLAGS[2:]], "error: bad.csv, line 2: verdict is 'yes', not accept or reject"),
        ([*FLAGS[:3], "data"], "error: data has none of the images of verdicts.csv: p.png say"),
        ([*FLAGS, "--data", "cats"], "error: --verdicts needs two classes"),
    ],
)
def test_what_is_refused(judged, capsys, flags, message):
    Path("bad.csv").write_text(HEAD + "p.png,1,10,100,180,20,yes\n")
    Path("cats").symlink_to("data")
    if "cats" in flags:
        for folder in ("data/train", "data/test"):
            Path(folder, "Negative").rename(Path(folder, "Tabby"))
    assert train.main([*TINY_TRAINING, *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()[-1]) < 200
    assert not Path("weights/model.safetensors").exists()
