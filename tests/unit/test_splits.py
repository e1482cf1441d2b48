"""Which files are held out: blocks of neighbours, groups, class by class."""

import itertools
import logging
import re
from pathlib import Path

import pytest
from PIL import Image

from crackcam.data.splits import choose_split, hold_out, plan_splits
from crackcam.errors import UserError


def touch_image(path):
    """A real image of one pixel: files that cannot be read as images are not split."""
    Image.new("L", (1, 1)).save(path, "PPM")


def test_plain_class_folders_are_split_without_copying(tmp_path):
    for name in ("b", "a", ".hidden", "Ünï côde"):
        (tmp_path / name).mkdir()
        for i in range(40):
            touch_image(tmp_path / name / f"{i}.jpg")
    plan = plan_splits(tmp_path, 0.2, seed=3)
    assert plan.classes == ["a", "b", "Ünï côde"]
    parts = [{p for files in plan.files[s].values() for p in files} for s in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 120
    assert len(plan.files["test"]["a"]) == 6  # a fifth of what validation (8) left
    assert plan.held_out.keys() == {"val", "test"}
    assert plan_splits(tmp_path, 0.2, seed=3) == plan
    assert plan_splits(tmp_path, 0.2, seed=4).held_out != plan.held_out
    assert choose_split(tmp_path, None, plan.held_out) == ("test", plan.files["test"])
    assert choose_split(tmp_path, "val", plan.held_out) == ("val", plan.files["val"])


def test_held_out_files_are_neighbours():
    files = [Path(f"{i}.jpg") for i in range(200)]
    _, held = hold_out(files, 0.2, "seed")
    numbers = [int(p.stem) for p in held]
    blocks = 1 + sum(b - a > 1 for a, b in itertools.pairwise(numbers))
    assert len(held) == 40
    assert blocks <= 4


def photographs(root, classes=("a", "b"), count=20, tiles=6):
    """Plain class folders; the tiles of a photograph are scattered over file numbers and classes."""
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for photo in range(count):
            for tile in range(tiles):
                touch_image(root / name / f"{tile}{index}_photo{photo:02d}_{'xy'[tile % 2]}.jpg")


def groups_of(plan, split, pattern):
    return {re.search(pattern, p.name)[0] for files in plan.files[split].values() for p in files}


@pytest.mark.parametrize("pattern", [r"photo\d+", r"_(photo\d+)_", r"_(photo(\d+))_[xy]"])
def test_groups_of_files_stay_in_one_split(tmp_path, pattern, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    photographs(tmp_path)
    plan = plan_splits(tmp_path, 0.2, 0, pattern)
    splits = {split: groups_of(plan, split, r"photo\d+") for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 20
    assert [len(splits[split]) for split in ("val", "test", "train")] == [4, 3, 13]  # a fifth of 20, then of 16
    assert {split: {name: len(f) for name, f in files.items()} for split, files in plan.files.items()} == {
        split: dict.fromkeys("ab", 6 * len(groups)) for split, groups in splits.items()
    }
    assert caplog.messages == ["groups: 20 of 240 files"]
    assert plan_splits(tmp_path, 0.2, 0, pattern) == plan
    assert plan_splits(tmp_path, 0.2, 1, pattern).held_out != plan.held_out
    assert choose_split(tmp_path, "test", plan.held_out).files == plan.files["test"]


def test_blocks_of_neighbours_would_part_those_groups(tmp_path):
    photographs(tmp_path)
    plan = plan_splits(tmp_path, 0.2, 0)
    assert groups_of(plan, "val", r"photo\d+") & groups_of(plan, "train", r"photo\d+")


def test_classes_of_unlike_sizes_are_held_out_alike(tmp_path):
    photographs(tmp_path, ["many"], count=40, tiles=10)
    photographs(tmp_path, ["few"], count=10, tiles=2)
    for path in (tmp_path / "few").iterdir():
        path.rename(path.with_name(path.name.replace("photo", "other")))
    plan = plan_splits(tmp_path, 0.2, 0, r"(?:photo|other)\d+")
    assert {name: len(files) for name, files in plan.files["val"].items()} == {"few": 4, "many": 80}


def test_files_without_a_match_are_groups_of_their_own_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    photographs(tmp_path)
    for name in ("a", "b"):
        for i in range(20):
            touch_image(tmp_path / name / f"single{i}.jpg")
    plan = plan_splits(tmp_path, 0.2, 0, r"photo(\d+)|single")  # a match, but not of the first group
    first = tmp_path / "a" / "single0.jpg"
    message = f"groups: 60 of 280 files; 40 files without a match, the first {first}, each a group"
    assert caplog.messages == [message]
    singles = {split: {p for p in plan.files[split]["a"] if "single" in p.name} for split in plan.files}
    assert 0 < len(singles["val"]) < 20


def test_hold_out_needs_two(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        touch_image(tmp_path / "train" / name / "1.jpg")
    with pytest.raises(UserError, match="too few images"):
        plan_splits(tmp_path, 0.2, 0)
