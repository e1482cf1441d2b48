"""The generated sample: complete, reproducible, with exact masks and hard negatives."""

import doctest
import functools
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.metrics import roc_auc_score

from crackcam.data.synthetic import sample
from crackcam.errors import UserError

pytestmark = pytest.mark.slow

MEANS_OF_SEED_9 = [123.96, 129.94, 115.04, 106.54, 141.52, 140.41, 129.46, 131.09, 124.06, 107.14, 147.78, 143.02]
COVERAGE_OF_SEED_9 = [0.0399, 0.0114, 0.0723, 0.0121, 0.048, 0.0284, *[0.0] * 6]  # the last six have no crack


@functools.cache
def generated(cracked, count=60, seed=9):
    return [sample.generate_image(np.random.default_rng([seed, i]), cracked) for i in range(count)]


def test_files(tmp_path):
    assert sample.write_sample(tmp_path, counts={"train": 3, "test": 1}) == 8
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == sorted(
        [f"masks/{n:05d}.png" for n in range(1, 9)]
        + [f"train/Positive/{n:05d}.jpg" for n in (1, 2, 3)]
        + [f"train/Negative/{n:05d}.jpg" for n in (4, 5, 6)]
        + ["test/Positive/00007.jpg", "test/Negative/00008.jpg"]
    )
    assert Image.open(tmp_path / "train/Positive/00001.jpg").size == (227, 227)
    for n, cracked in ((1, True), (4, False), (7, True), (8, False)):
        mask = np.asarray(Image.open(tmp_path / f"masks/{n:05d}.png"))
        assert mask.shape == (227, 227)
        assert set(np.unique(mask)) == ({0, 255} if cracked else {0})


def test_default_counts():
    assert sample.COUNTS == {"train": 300, "test": 60}


def test_examples_in_docstrings():
    assert doctest.testmod(sample) == (0, 3)


def test_generation_imports_no_torch():
    code = "import sys, crackcam.data.synthetic; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.write_sample(tmp_path / name, seed=seed, counts={"train": 2})
    same, other = Path("train/Positive/00001.jpg"), Path("masks/00002.png")
    assert (tmp_path / "a" / same).read_bytes() == (tmp_path / "b" / same).read_bytes()
    assert (tmp_path / "a" / other).read_bytes() == (tmp_path / "b" / other).read_bytes()
    assert (tmp_path / "a" / same).read_bytes() != (tmp_path / "c" / same).read_bytes()


def test_a_seed_gives_what_it_gave_before():
    """Means only: processors and libraries round differently."""
    images, masks = zip(*generated(True)[:6], *generated(False)[:6], strict=True)
    assert [image.mean() for image in images] == pytest.approx(MEANS_OF_SEED_9, abs=0.2)
    assert [(mask > 0).mean() for mask in masks] == pytest.approx(COVERAGE_OF_SEED_9, abs=0.001)


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(rng, cracked):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "generate_image", stop)
    with pytest.raises(KeyboardInterrupt):
        sample.write_sample(tmp_path, counts={"train": 2})
    assert list(tmp_path.iterdir()) == []


def test_existing_images_are_kept(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/own.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="already contains train: "):
        sample.write_sample(tmp_path, counts={"train": 1, "test": 1})
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["own.jpg"]


def test_masks_lie_on_the_crack():
    """Just beside it the image is brighter, nearly always: the mask is where the darkness is."""
    darker = 0
    images = generated(True)
    for image, mask in images:
        near = cv2.dilate(mask, np.ones((15, 15))) & ~cv2.dilate(mask, np.ones((7, 7)))
        assert 60 < (mask > 0).sum() < 0.35 * mask.size
        darker += image[mask > 0].mean() < image[near > 0].mean() - 5
    assert darker >= 0.9 * len(images)


def test_darkness_does_not_separate_the_classes():
    """Mean, darkest tenth of a percent, and fraction of dark pixels: none separates the classes well."""
    labels, features = [], []
    for cracked in (True, False):
        for image, _ in generated(cracked):
            grey = image.mean(axis=2)
            relative = grey / np.median(grey)
            features.append([grey.mean(), np.quantile(relative, 0.001), (relative < 0.6).mean()])
            labels.append(cracked)
    for values in np.array(features).T:
        area = roc_auc_score(labels, values)
        assert 0.12 < area < 0.88, area
