"""What the bundled network is measured by: the splits that keep the figures honest, and the figures by hand."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import crack_network
from crack_network import Measured

PICTURES = pytest.mark.skipif("CRACKCAM_DATA" not in os.environ, reason="needs the pictures in CRACKCAM_DATA")


@PICTURES
def test_surfaces_are_trained_on_or_measured_never_both():
    splits = crack_network.surfaces_by_split()
    files = [file for part in splits.values() for file in part]
    assert len(files) == len(set(files)) == 34
    assert len(splits["held_out"]) == 11
    assert not {file.stem for file in files} & crack_network.CRACKED_SURFACES


@PICTURES
def test_halves_share_no_photograph():
    paths = sorted((crack_network.data_folder() / "crack_masks" / "images").iterdir())
    count = len(paths)
    halves = crack_network.halves(Measured(paths=paths, cracked=[True] * count, confidences=[0.5] * count))
    parents = {name: {crack_network.parent(path) for path in half.paths} for name, half in halves.items()}
    assert not parents["choosing"] & parents["reporting"]
    assert sum(len(half.paths) for half in halves.values()) == count
    assert all(len(half.paths) > 0.4 * count for half in halves.values())


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Rissbilder_for_Florian_9S6A2832_185_2346_3101_2742", "Rissbilder_for_Florian_9S6A2832"),
        ("Volker_DSC01610_123_687_1549_1614", "Volker_DSC01610"),
        ("noncrack_noncrack_concrete_wall_15_5", "noncrack_noncrack_concrete_wall_15"),
        ("DeepCrack_7Q3A9064-19", "DeepCrack_7Q3A9064"),
    ],
)
def test_parents(stem, expected):
    assert crack_network.parent(Path(f"{stem}.jpg")) == expected


def test_decisions_by_hand():
    found = Measured(cracked=[True, True, True, False], confidences=[0.9, 0.8, 0.2, 0.4]).decisions()
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["specificity"] == 1
    assert found["balanced"] == pytest.approx(5 / 6)
    assert found["balanced_error"] == pytest.approx((2 / 9 / 3) ** 0.5 / 2)
    assert found["ranking"] == pytest.approx(2 / 3)


def test_hot_joints_by_hand():
    heatmap = np.arange(16, dtype=np.float32).reshape(4, 4)
    mask, joints = np.zeros((2, 4, 4), bool)
    mask[3, :2] = mask[0, :2] = True  # four pixels; the four hottest are the last row
    joints[3] = True
    assert crack_network.hot_on_joints([(heatmap, mask, joints)]) == 0.5  # half of the last row is crack


def test_crops_have_one_size():
    surface = np.random.default_rng(0).integers(0, 256, (600, 1024, 3)).astype(np.uint8)
    for seed in range(5):
        assert crack_network.random_crop(np.random.default_rng(seed), surface).shape == (260, 260, 3)
