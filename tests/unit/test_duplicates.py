"""Near-duplicates of the train split in others: copies that must be found, look-alikes that must not."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from crackcam.data import duplicates, pixels
from crackcam.data.listing import list_files
from crackcam.data.pixels import PixelSplit
from crackcam.data.synthetic import sample
from crackcam.preprocessing import GREY, Preprocessing, squash

pytestmark = pytest.mark.slow

SIZE = 96


def drawn(count, seed=0):
    """Generated concrete, every other image plain, (227, 227, 3) uint8."""
    return [sample.generate_image(np.random.default_rng([seed, i]), cracked=i % 2 == 0)[0] for i in range(count)]


def pixels_of(images, prefix="", size=SIZE):
    stacked = np.stack([squash(np.asarray(p), size) for p in images])
    paths = [Path(f"{prefix}{i}.jpg") for i in range(len(images))]
    return PixelSplit(torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.zeros(len(images), dtype=torch.int64), paths)


def found(split, train):
    return duplicates.near_duplicates({"train": train, "test": split})["test"]


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


CHANGES = {
    "copied": lambda p: p,
    "re-encoded": lambda p: jpeg(p, 60),
    "smaller": lambda p: p.resize((180, 180)),
    "larger": lambda p: p.resize((300, 300), Image.Resampling.BICUBIC),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.1),
    "darker, flatter, re-encoded": lambda p: jpeg(ImageEnhance.Contrast(ImageEnhance.Brightness(p).enhance(0.8)).enhance(0.8), 80),
    "grey": lambda p: p.convert("L").convert("RGB"),
}  # fmt: skip


@pytest.fixture(scope="module")
def concrete():
    return drawn(24)


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_paired_with_their_original(concrete, change):
    copies = [CHANGES[change](Image.fromarray(p)) for p in concrete]
    pairs = found(pixels_of(copies[::-1], "copy"), pixels_of(concrete))
    assert [(p.path.name, p.other.name) for p in pairs] == [(f"copy{i}.jpg", f"{23 - i}.jpg") for i in range(24)]


def test_distinct_images_are_not(concrete):
    others = drawn(60, seed=1)
    assert found(pixels_of(others), pixels_of(concrete)) == []
    mixed = [*others[:5], concrete[7], *others[5:9]]
    (pair,) = found(pixels_of(mixed, "m"), pixels_of(concrete))
    assert (pair.path, pair.other) == (Path("m5.jpg"), Path("7.jpg"))
    assert pair.correlation == pytest.approx(1)


def padded(split, size=3 * SIZE):
    """The images of a split in the middle of grey squares."""
    canvas = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].repeat(len(split), 1, size, size)
    canvas[:, :, SIZE : 2 * SIZE, SIZE : 2 * SIZE] = split.pixels
    return PixelSplit(canvas, split.labels, split.paths)


def test_padding_makes_no_duplicates(concrete):
    """Small images in a large square have most of it in common."""
    train, other = pixels_of(concrete), pixels_of(drawn(12, seed=1), prefix="other")
    assert found(padded(other), padded(train)) == found(other, train) == []
    assert len(found(padded(train), padded(train))) == len(found(train, train))


def test_correlation_is_pearsons_of_the_thumbnails(concrete):
    """At a size that 32 divides, thumbnails are means of 3x3 pixels and 3 colours."""
    one, other = pixels_of(concrete[:6]), pixels_of([jpeg(Image.fromarray(p), 30) for p in concrete[:6]])

    def thumbnail(pixels):
        return pixels.numpy().astype(float).reshape(3, 32, 3, 32, 3).mean(axis=(0, 2, 4)).ravel()

    for i, pair in enumerate(found(other, one)):
        expected = np.corrcoef(thumbnail(one.pixels[i]), thumbnail(other.pixels[i]))[0, 1]
        assert pair.correlation == pytest.approx(expected, abs=1e-5)


def test_of_blank_images_only_identical_ones_are_duplicates():
    grey, other = ([np.full((64, 64, 3), tone, np.uint8) for tone in tones] for tones in ((0, 120, 255), (1, 120, 254)))
    assert [pair[1:] for pair in found(pixels_of(grey), pixels_of(other))] == [(pixels_of(grey).paths[1], 1.0)]


def test_blocks_change_nothing(concrete, monkeypatch):
    splits = pixels_of([*concrete[3:9], *drawn(5, seed=2)]), pixels_of(concrete)
    whole = found(*splits)
    monkeypatch.setattr(duplicates, "BLOCK", 2)
    in_blocks = found(*splits)
    assert [p[:2] for p in in_blocks] == [p[:2] for p in whole]
    assert len(whole) == 6


def test_an_empty_split_has_none(concrete):
    empty = PixelSplit(torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), [])
    assert found(empty, pixels_of(concrete)) == []


def test_the_warning_counts_and_names_the_first_pair(concrete, caplog):
    splits = {
        "train": pixels_of(concrete, "train/"),
        "val": pixels_of(drawn(4, seed=3), "val/"),
        "test": pixels_of([*drawn(3, seed=4), concrete[5], concrete[9]], "test/"),
    }
    assert duplicates.warn_of_duplicates(splits) == {"val": 0, "test": 2}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "near-duplicates of training images in the test split: 2, the first test/3.jpg of train/5.jpg; "
        "they inflate its scores"
    )


@pytest.mark.torture
def test_concrete_holds_the_same_photographs_twice(real_data):
    """In the METU set mostly 5,400 to 5,600 numbers apart, so that splits by blocks of numbers part the copies."""
    root, classes = real_data / "concrete", ["Negative", "Positive"]
    splits = {}
    for name in ("train", "val", "test"):
        files = {c: list_files(root / name / c) for c in classes}
        splits[name] = pixels.load_split(name, classes, files, Preprocessing(64), 2)
    assert duplicates.warn_of_duplicates(splits) == {"val": 5, "test": 58}
    assert min(pair.correlation for pair in duplicates.near_duplicates(splits)["test"]) > 0.995
