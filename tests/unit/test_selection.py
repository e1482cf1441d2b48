"""Which images a command line names."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackcam.config import ImagesConfig
from crackcam.data.selection import read_selection, select
from crackcam.errors import UserError
from crackcam.types import ModelCard

CARD = ModelCard("resnet18", ["Negative", "Positive"], 64)


def write_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path, monkeypatch, caplog):
    """data/test/ with six images of each class: the working directory."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "crackcam")
    for name in ("Negative", "Positive"):
        for number in range(6):
            write_image(Path(f"data/test/{name}/{number}.png"), number)
    return tmp_path


def test_default_class(folders, caplog):
    found = select(ImagesConfig(), CARD)
    assert (found.name, found.split, found.true) == ("Positive", "test", "Positive")
    assert found.listed == [("Positive", Path(f"data/test/Positive/{number}.png")) for number in range(6)]
    assert caplog.messages == [
        "images: Positive (the default; choose with --type) in the test split of data, 6 files",
    ]


def test_first_class_where_there_is_no_positive(folders, caplog):
    for path in Path("data/test/Positive").iterdir():
        path.unlink()
    Path("data/test/Positive").rmdir()
    assert select(ImagesConfig(), CARD).true == "Negative"
    assert "images: Negative (the default; choose with --type)" in caplog.text


def test_a_named_class_and_all_classes(folders):
    assert select(ImagesConfig(type="Negative"), CARD).true == "Negative"
    every = select(ImagesConfig(), CARD, every_class=True)
    assert (every.name, every.true) == ("all", None)
    assert [name for name, _ in every.listed] == ["Negative"] * 6 + ["Positive"] * 6
    assert select(ImagesConfig(type="Negative"), CARD, every_class=True).name == "Negative"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "Maybe"}, "no class 'Maybe' in the test split of data; available: Negative, Positive"),
        (
            {"type": "Postive"},
            "no class 'Postive' in the test split of data; available: Negative, Positive (did you mean Positive?)",
        ),
        ({"type": "../test/Positive"}, "no class '../test/Positive' in the test split of data"),
        ({"split": "train"}, "no train split in data; available: test"),
        ({"data": "nowhere"}, "no data folder nowhere"),
        ({"image": "nowhere.jpg"}, "no image nowhere.jpg"),
        ({"image": "data/*.jpg"}, "no image data/*.jpg"),
    ],
)
def test_names_without_images(folders, settings, message):
    with pytest.raises(UserError) as caught:
        select(ImagesConfig(**settings), CARD)
    assert str(caught.value).startswith(message)


def test_an_empty_class(folders):
    for path in Path("data/test/Positive").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no images of Positive in the test split of data"):
        select(ImagesConfig(), CARD)


def test_a_model_that_has_classes_of_its_own(folders):
    imagenet = ModelCard("resnet18", [f"class {number}" for number in range(1000)], 224)
    with pytest.raises(UserError, match="resnet18 has classes of its own, not those of a folder: name images with"):
        select(ImagesConfig(), imagenet)
    with pytest.raises(UserError, match="data has none of the classes of the model: cat, dog"):
        select(ImagesConfig(), ModelCard("resnet18", ["cat", "dog"], 64))
    assert select(ImagesConfig(image=["data/test/Positive"]), imagenet).true is None


def test_a_split_that_training_held_out(folders):
    Path("data/test").rename("data/train")
    held = [f"train/{name}/{number}.png" for name in CARD.classes for number in (1, 3)]
    card = ModelCard("resnet18", CARD.classes, 64, split={"val": held})
    for settings in ({"split": "val"}, {}):
        found = select(ImagesConfig(**settings), card)
        assert (found.split, found.files) == (
            "val",
            {"Positive": [Path(f"data/train/Positive/{number}.png") for number in (1, 3)]},
        )


def test_images_by_name(folders):
    write_image(Path("bridge pier.png"))
    config = ImagesConfig(image=["bridge pier.png", "data/test/Negative", "data/*/Positive/[12].png"])
    found = select(config, CARD)
    assert (found.name, found.split, found.true) == ("images", None, None)
    assert found.listed == [
        ("", Path("bridge pier.png")),
        *(("", Path(f"data/test/Negative/{number}.png")) for number in range(6)),
        *(("", Path(f"data/test/Positive/{number}.png")) for number in (1, 2)),
    ]


def drawn(**settings):
    config = ImagesConfig(**settings)
    return [image.path.name for image in read_selection(config, select(config, CARD))]


def test_a_seed_draws_the_same_images_and_every_image_can_be_drawn(folders):
    seen = set()
    for seed in range(8):
        names = drawn(num=2, seed=seed)
        assert len(set(names)) == 2
        assert drawn(num=2, seed=seed) == names
        seen |= set(names)
    assert seen == {f"{number}.png" for number in range(6)}


def test_named_images_are_all_read_in_order(folders):
    assert drawn(image=["data/test/Positive/5.png", "data/test/Positive/2.png"], num=1) == ["5.png", "2.png"]
    assert len(drawn(image=["data/test/Positive/5.png", "data/test/Negative"], num=3)) == 3


def test_unreadable_files_are_replaced_and_reported(folders, caplog):
    Path("data/test/Positive/broken.png").write_bytes(b"\x89PNG broken")
    Path("data/test/Positive/empty.png").touch()
    assert sorted(drawn(num=20)) == [f"{number}.png" for number in range(6)]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(warnings) == [
        "2 files could not be read",
        "skipped data/test/Positive/broken.png: not an image",
        "skipped data/test/Positive/empty.png: empty file",
    ]
    assert caplog.messages[-1] == "only 6 images available, 20 requested"
    assert len(drawn(num=6)) == 6


def test_nothing_readable(folders):
    for path in Path("data/test/Positive").iterdir():
        path.write_bytes(b"\xff\xd8 broken")
    with pytest.raises(UserError, match="none of 6 files can be read as an image"):
        drawn()
