"""Which folders are splits and classes, under whatever usual names, and what is no class; only images are split."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackcam.config import ImagesConfig
from crackcam.data.selection import select
from crackcam.data.splits import choose_split, plan_splits
from crackcam.errors import UserError
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path, "PNG")


def photos(folder, count=10):
    for number in range(count):
        photo(folder / f"{number}.jpg", number)


def counts(plan):
    return {split: {name: len(found) for name, found in files.items()} for split, files in plan.files.items()}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "Validation", "testing"),
        ("training_set", "dev", "test_set"),
        ("train2017", "val2017", "test2017"),
        ("train-data", "validation-data", "test-data"),
    ],
)
def test_splits_under_their_usual_names(tmp_path, train, val, test):
    for name, number in ((train, 6), (val, 3), (test, 2)):
        for label in "ab":
            photos(tmp_path / name / label, number)
    plan = plan_splits(tmp_path, 0.2, 0)
    assert counts(plan) == {split: dict.fromkeys("ab", n) for split, n in (("train", 6), ("val", 3), ("test", 2))}
    assert plan.held_out == {}
    assert choose_split(tmp_path, None, {}).files == plan.files["test"]
    assert choose_split(tmp_path, "val", {}).files == plan.files["val"]


@pytest.mark.parametrize("both", [("val", "valid"), ("Val", "dev"), ("validation", "VALID")])
def test_two_folders_for_one_split_are_refused(tmp_path, both):
    for name in ("train", *both):
        for label in "ab":
            photos(tmp_path / name / label, 3)
    message = f"has {' and '.join(sorted(both))}, which are both the val split: merge them, or rename one"
    with pytest.raises(UserError, match=message):
        plan_splits(tmp_path, 0.2, 0)


def test_an_empty_folder_and_a_link_are_no_second_split(tmp_path):
    for name in ("train", "valid"):
        for label in "ab":
            photos(tmp_path / name / label, 3)
    (tmp_path / "val").mkdir()
    assert counts(plan_splits(tmp_path, 0.2, 0))["val"] == {"a": 3, "b": 3}
    (tmp_path / "val").rmdir()
    (tmp_path / "val").symlink_to("valid")
    assert counts(plan_splits(tmp_path, 0.2, 0))["val"] == {"a": 3, "b": 3}


def test_classes_that_are_named_like_a_split(tmp_path):
    for label in ("valid", "invalid", "crash test"):
        photos(tmp_path / label)
    assert plan_splits(tmp_path, 0.2, 0).classes == ["crash test", "invalid", "valid"]


def test_trains_and_buses(tmp_path):
    for label in ("Train", "Bus"):
        photos(tmp_path / "a" / label)
        photos(tmp_path / "b" / label.replace("Bus", "Test"))
    assert plan_splits(tmp_path / "a", 0.2, 0).classes == ["Bus", "Train"]
    with pytest.raises(UserError, match=f"no class folders in {tmp_path}/b/Train, {tmp_path}/b/Test"):
        plan_splits(tmp_path / "b", 0.2, 0)


def test_folders_beside_the_splits_are_named(tmp_path, caplog):
    for name in ("Train/a", "Train/b", "holdout/a", "Positive", "masks", "__MACOSX/a"):
        photos(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert plan_splits(tmp_path, 0.2, 0).classes == ["a", "b"]
    assert caplog.messages == [f"{tmp_path} has folders of splits: ignored beside them: Positive, holdout"]


@pytest.mark.parametrize(
    "junk", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information"]
)
def test_folders_of_the_system_are_no_classes_and_hold_no_images(tmp_path, junk):
    for name in ("a", "b", junk, f"a/{junk}"):
        photos(tmp_path / name)
    for name in ("Thumbs.db", "desktop.ini", "._0.jpg"):
        photo(tmp_path / "b" / name)
    plan = plan_splits(tmp_path, 0.2, 0)
    assert plan.classes == ["a", "b"]
    assert sum(sum(of_split.values()) for of_split in counts(plan).values()) == 20


def masks(folder, count=10, grey=255):
    folder.mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((8, 8), np.uint8)
        mask[number % 8] = grey
        Image.fromarray(mask).save(folder / f"{number}.png")


@pytest.mark.parametrize("name", ["masks", "Mask", "ground_truth", "SegmentationClass"])
@pytest.mark.parametrize("grey", [255, 1])
def test_masks_are_no_class(tmp_path, caplog, name, grey):
    photos(tmp_path / "images")
    masks(tmp_path / name, grey=grey)
    with pytest.raises(UserError, match=r"only one class folder \(images\)"):
        plan_splits(tmp_path, 0.2, 0)
    photos(tmp_path / "other")
    assert plan_splits(tmp_path, 0.2, 0).classes == ["images", "other"]
    assert caplog.messages[-1] == f"{name} holds masks or annotations, it is not a class: ignored"


@pytest.mark.parametrize("name", ["labels", "Annotations", "xml"])
def test_annotations_are_no_class(tmp_path, caplog, name):
    photos(tmp_path / "train" / "a")
    photos(tmp_path / "train" / "b")
    (tmp_path / "train" / name).mkdir()
    (tmp_path / "train" / name / "0.xml").write_text("<annotation/>")
    assert plan_splits(tmp_path, 0.2, 0).classes == ["a", "b"]
    assert caplog.messages[0] == f"{name} holds masks or annotations, it is not a class: ignored"


def test_photographs_in_a_folder_named_mask_are_a_class(tmp_path, caplog):
    photos(tmp_path / "mask")
    photos(tmp_path / "no_mask")
    assert plan_splits(tmp_path, 0.2, 0).classes == ["mask", "no_mask"]
    assert caplog.messages == []


def test_masks_under_another_name_are_warned_of(tmp_path, caplog):
    photos(tmp_path / "rgb")
    masks(tmp_path / "segs")
    plan_splits(tmp_path, 0.2, 0)
    assert caplog.messages == ["segs looks like masks of rgb: if it is not a class, move it elsewhere"]


def test_splits_below_classes_and_a_nested_data_folder_are_refused(tmp_path):
    for name in ("cats/train", "cats/test", "dogs/train", "dogs/test"):
        photos(tmp_path / "a" / name)
    with pytest.raises(UserError, match=r"cats holds test, train: splits lie above classes, as in .*/test/cats"):
        plan_splits(tmp_path / "a", 0.2, 0)
    for label in "xy":
        photos(tmp_path / "b" / "photos" / "train" / label)
        photos(tmp_path / "c" / "photos" / label)
    with pytest.raises(UserError, match=f"name it with data {tmp_path}/b/photos"):
        plan_splits(tmp_path / "b", 0.2, 0)
    with pytest.raises(UserError, match=rf"did you mean data {tmp_path}/c/photos\?"):
        plan_splits(tmp_path / "c", 0.2, 0)
    card = ModelCard("resnet18", ["x", "y"], 64)
    with pytest.raises(UserError, match=rf"none of the classes of the model: x, y; did you mean data {tmp_path}/c/"):
        select(ImagesConfig(data=tmp_path / "c"), card)


# -- only images are counted ------------------------------------------------------------------------------------------


def test_annotations_among_images_are_not_split(tmp_path, caplog):
    """With them, half of what is held out would be XML."""
    for label in "ab":
        photos(tmp_path / label)
        for number in range(60):
            (tmp_path / label / f"{number}.xml").write_text("<annotation/>")
    plan = plan_splits(tmp_path, 0.2, 0)
    assert counts(plan) == {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}
    assert all(path.suffix == ".jpg" for files in plan.files.values() for found in files.values() for path in found)
    assert len(caplog.messages) == 11
    assert caplog.messages[0] == f"skipped {tmp_path}/a/0.xml: not an image"
    assert caplog.messages[-1] == "120 files of the train split could not be read"


def test_a_class_without_an_image_is_refused(tmp_path):
    photos(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jpg").write_text("<html>error")
    with pytest.raises(UserError, match="no image of class b in the train split can be read"):
        plan_splits(tmp_path, 0.2, 0)


# -- Unicode forms ----------------------------------------------------------------------------------------------------

NAME = "Brüche"
NFC, NFD = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "test"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_one_name_in_two_unicode_forms_is_one_class(tmp_path, caplog, train, test):
    for split, name in (("train", train), ("test", test)):
        photos(tmp_path / split / name)
        photos(tmp_path / split / "heil")
    plan = plan_splits(tmp_path, 0.2, 0)
    assert plan.classes == [NFC, "heil"]
    assert counts(plan)["test"] == {NFC: 10, "heil": 10}
    assert caplog.messages == []
    for classes in ([NFC, "heil"], [NFD, "heil"]):
        card = ModelCard("resnet18", classes, 64)
        for text in (NFC, NFD):
            found = select(ImagesConfig(data=tmp_path, type=text), card)
            assert (found.true, len(found.listed)) == (classes[0], 10)
            assert card.class_index(text) == 0
            assert card.class_index(text.upper()) == 0


def test_both_forms_in_one_folder_are_refused(tmp_path):
    for name in (NFC, NFD, "heil"):
        photos(tmp_path / name)
    with pytest.raises(UserError, match=f"two folders in .* are named {NFC}, in two Unicode forms: merge them"):
        plan_splits(tmp_path, 0.2, 0)


@pytest.mark.parametrize(("disk", "typed"), [(NFC, NFD), (NFD, NFC)])
def test_files_are_found_in_the_other_form(tmp_path, disk, typed):
    photo(tmp_path / disk / f"{disk}.jpg")
    for path in (tmp_path / typed / f"{typed}.jpg", tmp_path / typed, tmp_path / typed / "*.jpg"):
        found = select(ImagesConfig(image=[path]), ModelCard("resnet18", ["a", "b"], 64))
        assert [file.read_bytes()[:4] for _, file in found.listed] == [b"\x89PNG"]


# -- what training held out, elsewhere ---------------------------------------------------------------------------------


@pytest.fixture
def sites(tmp_path, monkeypatch, caplog):
    """a/ and b/: other photographs under the same names, of the same sizes in bytes; a card of a training on a/."""
    from crackcam.data import splits

    caplog.set_level(logging.INFO, "crackcam")
    monkeypatch.chdir(tmp_path)
    for site in "ab":
        for label in ("x", "y"):
            for number in range(30):
                path = Path(site, label, f"{number}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([ord(site), number]).integers(0, 256, (6, 6, 3), np.uint8)
                Image.fromarray(pixels).save(path, "BMP")
    plan = plan_splits(Path("a"), 0.15, 0)
    card = ModelCard("resnet18", ["x", "y"], 64, split=plan.held_out)
    if hasattr(splits, "sample_hashes"):
        card.training["held_out_hashes"] = splits.sample_hashes(Path("a"), plan)
    return card, plan


def test_another_data_set_is_not_taken_for_the_one_of_training(sites, caplog):
    card, plan = sites
    assert select(ImagesConfig(data="a"), card, every_class=True).files == plan.files["test"]
    assert select(ImagesConfig(data="a", split="val"), card, every_class=True).files == plan.files["val"]
    caplog.clear()
    found = select(ImagesConfig(data="b"), card, every_class=True)
    assert (found.split, len(found.listed)) == ("", 60)
    assert caplog.messages[0] == "b is not the data set that this checkpoint was trained on, or its files have changed"
    with pytest.raises(UserError, match="no val split in b; available: none"):
        select(ImagesConfig(data="b", split="val"), card, every_class=True)


def test_a_copy_of_the_data_set_in_another_unicode_form_is_recognised(sites):
    card, plan = sites
    for name in ("a", "b"):
        Path(name, "x").rename(Path(name, NFD))
    card.classes = [NFC, "y"]
    card.split = {split: [name.replace("x/", f"{NFC}/") for name in names] for split, names in card.split.items()}
    hashes = card.training["held_out_hashes"]
    card.training["held_out_hashes"] = {name.replace("x/", f"{NFC}/"): value for name, value in hashes.items()}
    found = select(ImagesConfig(data="a", type=NFC), card)
    assert [path.name for path in found.files[NFC]] == [path.name for path in plan.files["test"]["x"]]
    assert len(select(ImagesConfig(data="b"), card, every_class=True).listed) == 60


def test_cards_of_earlier_versions_go_by_names(sites):
    card, plan = sites
    card.training.clear()
    assert select(ImagesConfig(data="a"), card, every_class=True).files == plan.files["test"]
    card.split = {"test": ["x/none.jpg"]}
    assert len(select(ImagesConfig(data="a"), card, every_class=True).listed) == 60


def test_hashes_of_an_untrusted_card_are_checked():
    for training in ({}, {"held_out_hashes": [1]}, {"held_out_hashes": {"a": 1, "b": "0"}}):
        card = ModelCard("resnet18", ["a", "b"], 64, training=training)
        assert card.held_out_hashes in ({}, {"b": "0"})
