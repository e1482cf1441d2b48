"""Synthetic cracks: what is drawn, where it is drawn, and what is left out of its mask."""

import cv2
import numpy as np
import pytest

from crackcam.data.synthetic import cracks, distractors, examples, paths, transplants
from crackcam.data.synthetic.cracks import CrackLimits

pytestmark = pytest.mark.slow

SIDE = 260
PLAIN = np.ones((SIDE, SIDE), np.float32)
DRAWN = {
    "fractal": cracks.fractal_crack,
    "walk": cracks.random_walk_crack,
    "stepped": cracks.stepped_crack,
    "easiest": lambda *args: cracks.easiest_crack(*args, brickwork()),
}


def brickwork():
    """(SIDE, SIDE, 3) float32, bright bricks of 60 x 26 pixels between dark joints 4 pixels wide."""
    y, x = np.mgrid[:SIDE, :SIDE]
    joints = (y % 30 < 4) | ((x + 32 * (y // 30 % 2)) % 64 < 4)
    return np.repeat(np.where(joints, 60, 170)[..., None], 3, axis=2).astype(np.float32)


def rendered(kind, seed, limits):
    return DRAWN[kind](np.random.default_rng(seed), PLAIN, 1.0, limits)


@pytest.mark.parametrize("kind", DRAWN)
def test_the_mask_is_where_the_surface_is_darker(kind):
    for seed in range(6):
        tone, mask = rendered(kind, seed, CrackLimits(3, 6, 0.4))
        crack = mask > 0
        assert 0.0005 < crack.mean() < 0.2
        assert tone[crack].mean() < 0.85
        far = cv2.distanceTransform((~crack).astype(np.uint8), cv2.DIST_L2, 5) > 30
        assert tone[far].mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("width", [2.0, 5.0, 9.0])
def test_cracks_are_as_wide_as_asked_for(kind, width):
    """Area over length of the trunk: branches and tapered ends are narrower, slow variation makes it wider."""
    widths = []
    for seed in range(8):
        _, mask = rendered(kind, seed, CrackLimits(width, width, 0.4))
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        ridge = (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)
        widths.append(2 * np.median(depth[ridge]))
    assert 0.5 * width < np.median(widths) < 1.6 * width + 1


def test_the_easiest_way_through_bricks_follows_the_joints():
    surface, on_joints = brickwork(), []
    for seed in range(12):
        path = paths.easiest_path(np.random.default_rng(seed), surface.mean(axis=2))
        x, y = np.clip(path.round().astype(int), 0, SIDE - 1).T
        on_joints.append((surface[y, x, 0] < 100).mean())
    joints = (surface[..., 0] < 100).mean()
    assert max(on_joints) > 2 * joints  # where dark places are cheap
    assert min(on_joints) < joints  # where bright ones are


def test_stepped_cracks_run_along_two_directions():
    corners = paths.masonry_steps(np.random.default_rng(3), SIDE)
    steps = np.abs(np.diff(corners, axis=0))
    assert len(steps) >= 3
    assert (steps.min(axis=1) < 0.35 * steps.max(axis=1)).all()


@pytest.mark.parametrize("distractor", distractors.ON_WALLS, ids=lambda distractor: distractor.__name__)
def test_what_is_no_crack_is_never_in_the_mask(distractor, monkeypatch):
    monkeypatch.setattr(examples, "ON_WALLS", (distractor,))
    monkeypatch.setattr(examples, "DISTRACTOR_PROBABILITY", 1)
    source = lambda rng, label, side: np.full((side or SIDE,) * 2 + (3,), 150, np.uint8)  # noqa: E731
    for seed in range(4):
        scene = examples.generate_scene(np.random.default_rng(seed), source, SIDE, cracked=False)
        assert not scene.mask.any()
        assert not scene.cracked


# -- photographed cracks ---------------------------------------------------------------------------------------------


def photograph(joint=False, stains=0):
    """Bare concrete with one crack of known place, and what makes it unclear; the image and the crack's mask."""
    rng = np.random.default_rng(4)
    grey = rng.normal(170, 4, (227, 227)).astype(np.float32)
    truth = np.zeros((227, 227), np.uint8)
    path = paths.fractal_path(rng, np.array([20.0, -4]), np.array([190.0, 231]), 0.05)
    cv2.polylines(truth, [path.round().astype(np.int32)], False, 1, 6)
    grey[truth > 0] *= 0.35
    for _ in range(stains):
        cv2.circle(grey, tuple(map(int, rng.integers(20, 200, 2))), 9, 60, -1)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), truth > 0


def test_a_clear_crack_is_cut_out_where_it_is():
    image, truth = photograph()
    cut = transplants.cut_out(image)
    overlap = (cut.coverage > 0) & truth
    assert overlap.sum() > 0.9 * truth.sum()
    assert (cut.coverage > 0).sum() < 1.35 * truth.sum()
    assert cut.tone[truth].mean() < 0.5
    away = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5) > 10
    assert (cut.tone[away] == 1).all()  # nothing of the old surface comes along


@pytest.mark.parametrize(
    "image", [photograph(stains=12)[0], np.full((227, 227, 3), 140, np.uint8)], ids=["stains", "plain"]
)
def test_where_it_is_unclear_what_is_crack_nothing_is_cut_out(image):
    assert transplants.cut_out(image) is None


def test_transplants_carry_their_mask_along():
    cut = transplants.cut_out(photograph()[0])
    for seed in range(10):
        moved = transplants.transplant(np.random.default_rng(seed), cut, SIDE)
        assert moved.tone.shape == moved.coverage.shape == (SIDE, SIDE)
        if (moved.coverage > 0.5).any():
            assert moved.tone[moved.coverage > 0.5].mean() < 0.75
        assert moved.tone[cv2.dilate(moved.coverage, np.ones((15, 15))) == 0].min(initial=1) > 0.95


def test_photographs_without_a_clear_crack_give_none():
    plain = lambda rng: np.full((227, 227, 3), 140, np.uint8)  # noqa: E731
    assert transplants.photographed_crack(np.random.default_rng(0), plain, PLAIN) is None


# -- visibility ------------------------------------------------------------------------------------------------------


def test_a_crack_that_nobody_can_see_is_not_drawn():
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(mask, (10, 10), (240, 200), 255, 2)
    faint = PLAIN * (1 - 0.1 * (mask > 0))
    smooth, rough = (np.clip(rng.normal(140, spread, (SIDE, SIDE)), 0, 255) for spread in (2, 50))
    assert examples.is_visible(smooth, PLAIN, faint, mask)
    assert not examples.is_visible(rough, PLAIN, faint, mask)
    assert not examples.is_visible(smooth, PLAIN, PLAIN, np.zeros_like(mask))
    scene = np.repeat((smooth * faint)[..., None], 3, axis=2).astype(np.uint8)
    assert examples.stands_out(scene, mask)
    assert not examples.stands_out(np.full_like(scene, 255), mask)
    assert examples.stands_out(scene, np.zeros_like(mask))


def test_examples_without_a_visible_crack_are_crack_free(monkeypatch):
    monkeypatch.setattr(examples, "LEAST_CONTRAST", np.inf)
    source = lambda rng, label, side: np.full((side or SIDE,) * 2 + (3,), 150, np.uint8)  # noqa: E731
    monkeypatch.setattr(examples, "PHOTOGRAPHED", 0)
    for seed in range(6):
        scene = examples.generate_scene(np.random.default_rng(seed), source, SIDE, cracked=True)
        assert not scene.cracked
        assert not scene.mask.any()
