"""Generated pictures: complete, reproducible, with exact masks and hard negatives."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from crackcam.data.synthetic import sample


def drawn(cracked, count=60, seed=9):
    return [sample.draw(np.random.default_rng([seed, i]), cracked) for i in range(count)]


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


def test_a_seed_draws_the_same(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample.write_sample(tmp_path / name, seed=seed, counts={"train": 2})
    same, other = Path("train/Positive/00001.jpg"), Path("masks/00002.png")
    assert (tmp_path / "a" / same).read_bytes() == (tmp_path / "b" / same).read_bytes()
    assert (tmp_path / "a" / other).read_bytes() == (tmp_path / "b" / other).read_bytes()
    assert (tmp_path / "a" / same).read_bytes() != (tmp_path / "c" / same).read_bytes()


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def stop(rng, cracked):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        sample.write_sample(tmp_path, counts={"train": 2})
    assert list(tmp_path.iterdir()) == []


def test_masks_lie_on_the_crack():
    """Just beside it the picture is brighter, nearly always: the mask is where the darkness is."""
    darker = 0
    pictures = drawn(cracked=True)
    for picture, mask in pictures:
        near = cv2.dilate(mask, np.ones((15, 15))) & ~cv2.dilate(mask, np.ones((7, 7)))
        assert 60 < (mask > 0).sum() < 0.35 * mask.size
        darker += picture[mask > 0].mean() < picture[near > 0].mean() - 5
    assert darker >= 0.9 * len(pictures)


def test_darkness_does_not_tell_the_classes_apart():
    """Mean, darkest tenth of a percent, and share of dark pixels: none separates the classes well."""
    labels, features = [], []
    for cracked in (True, False):
        for picture, _ in drawn(cracked):
            grey = picture.mean(axis=2)
            relative = grey / np.median(grey)
            features.append([grey.mean(), np.quantile(relative, 0.001), (relative < 0.6).mean()])
            labels.append(cracked)
    for values in np.array(features).T:
        area = roc_auc_score(labels, values)
        assert 0.12 < area < 0.88, area
