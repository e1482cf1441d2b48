"""Training images with synthetic cracks."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from crackcam.data.pixels import PixelSplit
from crackcam.data.synthetic import datasets, distractors, examples, surfaces
from crackcam.data.synthetic.cracks import CrackLimits
from crackcam.data.synthetic.datasets import BlendedImages, SyntheticImages
from crackcam.data.synthetic.examples import COVERED, UNKNOWN
from crackcam.data.synthetic.sample import CLASSES, CRACK_FREE, CRACKED, SIDE, generate_image
from crackcam.errors import UserError
from crackcam.training.losses import POSITIVE_WEIGHT, mask_loss

pytestmark = pytest.mark.slow

LABELS_OF_SEED_11 = [1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0]
MEANS_OF_SEED_11 = [196.05, 171.68, 156.82, 142.32, 65.35, 116.25, 146.17, 226.23, 130.28, 206.45, 99.62, 117.25]
COVERAGE_OF_SEED_11 = [0.0186, 0.0129, 0.0, 0.0, 0.0154, 0.0263, 0.0977, 0.0, 0.0, 0.0, 0.0277, 0.0]


@pytest.fixture(scope="module")
def split():
    """Eight generated images of each class."""
    images = [generate_image(np.random.default_rng([5, i]), cracked=i % 2 == 1)[0] for i in range(16)]
    pixels = torch.from_numpy(np.stack([cv2.resize(image, (96, 96)) for image in images]))
    return PixelSplit(pixels.permute(0, 3, 1, 2).contiguous(), torch.arange(16) % 2, [])


def scenes_of(split, seed, count):
    source = SyntheticImages(split, 0, SIDE).source_image
    return [examples.generate_scene(np.random.default_rng([seed, i]), source, SIDE, cracked=True) for i in range(count)]


def test_the_same_seed_gives_the_same_images(split):
    first, again, other = (SyntheticImages(split, seed, 96) for seed in (3, 3, 4))
    for index in range(4):
        for a, b in zip(first[index], again[index], strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert any(not torch.equal(first[i][0], other[i][0]) for i in range(4))


def test_a_seed_gives_what_it_gave_before(split):
    """Trainings of before and after a change are comparable. Means only: processors and libraries round differently."""
    images = [SyntheticImages(split, 11, 128)[index] for index in range(12)]
    assert [label for _, label, _ in images] == LABELS_OF_SEED_11
    means = [image.float().mean().item() for image, _, _ in images]
    assert means == pytest.approx(MEANS_OF_SEED_11, abs=0.5)
    covered = [(mask > 0).float().mean().item() for _, _, mask in images]
    assert covered == pytest.approx(COVERAGE_OF_SEED_11, abs=0.005)


def test_a_split_has_as_many_synthetic_images(split):
    synthetic, images = datasets.synthetic_split(split, 3, 96), SyntheticImages(split, 3, 96)
    assert synthetic.pixels.shape == (16, 3, 96, 96)
    assert synthetic.labels.tolist() == [images[index][1] for index in range(16)]
    assert all(torch.equal(synthetic.pixels[index], images[index][0]) for index in range(16))


@pytest.mark.parametrize("lacking", [CRACK_FREE, CRACKED])
def test_a_split_of_one_class_is_refused(split, lacking):
    there = split.labels != lacking
    with pytest.raises(UserError, match=f"a split without {CLASSES[lacking]}: add .* or pass mix_sample 0"):
        datasets.synthetic_split(PixelSplit(split.pixels[there], split.labels[there], []), 0, 96)


def test_masks_agree_with_labels(split):
    images = [
        SyntheticImages(split, seed, size)[index] for seed, size in enumerate((227, 128, 300)) for index in range(8)
    ]
    assert {label for _, label, _ in images} == {CRACK_FREE, CRACKED}
    for image, label, mask in images:
        assert image.shape == (3, *mask.shape)
        assert image.dtype == mask.dtype == torch.uint8
        known = mask[mask != UNKNOWN]
        if label == CRACK_FREE:
            assert len(known) == mask.numel()
            assert (known <= COVERED).all()
            assert (known > COVERED / 2).sum() < examples.MIN_CRACK_PIXELS
        else:
            assert len(known) < mask.numel() or (known > 0).any()


def test_cracks_are_darker_than_their_surroundings(split, monkeypatch):
    monkeypatch.setattr(examples, "DISTRACTOR_PROBABILITY", 0)
    monkeypatch.setattr(examples, "PHOTOGRAPHED", 0)
    darker = []
    for scene in scenes_of(split, 1, 30):
        assert scene.cracked
        crack = scene.mask > 0
        around = cv2.dilate(crack.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~crack
        darker.append(scene.image[crack].mean() < scene.image[around].mean())
    assert np.mean(darker) > 0.9


def test_hairlines_keep_their_width_in_mosaics(split, monkeypatch):
    """They run over the tiles and are not scaled down with them."""
    monkeypatch.setattr(examples, "DISTRACTOR_PROBABILITY", 0)
    monkeypatch.setattr(examples, "PHOTOGRAPHED", 0)
    monkeypatch.setattr(examples, "randomize_camera", lambda rng, image: image)
    monkeypatch.setattr(examples, "CRACKS", CrackLimits(2.0, 2.0, 0.15))
    covered = {}
    for tiles in (1, 3):
        monkeypatch.setattr(examples, "TILES_PER_SIDE", (tiles, tiles, tiles))
        masks = [scene.mask for scene in scenes_of(split, 4, 12)]
        assert all(cv2.distanceTransform((m > 0).astype(np.uint8), cv2.DIST_L2, 5).max() >= 1 for m in masks)
        covered[tiles] = np.mean([(m > 0).mean() for m in masks])
    assert 0.5 < covered[3] / covered[1] < 2


def test_some_cracks_are_photographed_and_their_places_unknown(split):
    scenes = scenes_of(split, 2, 40)
    photographed = [scene for scene in scenes if (scene.mask == UNKNOWN).any()]
    assert 1 < len(photographed) < 20
    assert all(scene.cracked for scene in photographed)
    assert all(set(np.unique(scene.mask)) <= {0, UNKNOWN} for scene in photographed)


@pytest.mark.parametrize("distractor", distractors.ON_WALLS)
def test_distractors_change_the_tone(distractor):
    for seed in range(8):
        tone = distractor(np.random.default_rng(seed), np.ones((SIDE, SIDE), np.float32), 1.0)
        assert tone.shape == (SIDE, SIDE)
        assert np.isfinite(tone).all()
        assert tone.std() > 1e-3
        assert -0.1 < tone.min() <= tone.max() < 4


@pytest.mark.parametrize("side", [64, 107, 260])
def test_surfaces_of_any_size_are_finite(side):
    """Tiles of a mosaic are small: the coarsest noise has more bumps than they have pixels to show."""
    for seed in range(20):
        relief = surfaces.relief(np.random.default_rng(seed), side)
        assert relief.shape == (side, side)
        assert np.isfinite(relief).all()


@pytest.mark.parametrize("scale", [0.33, 1.0, 2.2])
def test_scaling_gives_the_size_asked_for(scale, monkeypatch):
    monkeypatch.setattr(np, "exp", lambda _: scale)
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    for side in (96, SIDE, 300):
        assert surfaces.random_scale(np.random.default_rng(0), image, side).shape == (side, side, 3)


def test_blended_images_replace_their_fraction(split):
    images = [(split.pixels[i], int(split.labels[i])) for i in range(16)]
    for fraction, low, high in ((0.0, 0, 0), (0.5, 3, 13), (1.0, 16, 16)):
        blended = BlendedImages(images, SyntheticImages(split, 0, 96), fraction)
        assert len(blended) == 16
        assert low <= blended.replaced.sum() <= high


def test_masks_of_photographs_are_empty_or_unknown(split):
    images = [(split.pixels[i], int(split.labels[i])) for i in range(16)]
    blended = BlendedImages(images, SyntheticImages(split, 0, 96), 0.0)
    image, label, mask = blended[4]
    assert label == CRACK_FREE
    assert torch.equal(image, datasets.shift_into_padding(np.random.default_rng([0, 4]), split.pixels[4]))
    assert torch.equal(blended[4][0], image)
    assert (mask == 0).all()
    assert (blended[5][2] == UNKNOWN).all()


def test_shifted_images_show_padding():
    image = torch.full((3, 8, 8), 7, dtype=torch.uint8)
    fractions = []
    for seed in range(40):
        shifted = datasets.shift_into_padding(np.random.default_rng(seed), image)
        assert shifted.shape == image.shape
        own = (shifted == 7).all(dim=0)
        assert (shifted[:, ~own] == torch.tensor(datasets.GREY)[:, None]).all()
        fractions.append(own.float().mean().item())
    assert 0.25 <= min(fractions) < 0.6
    assert 0.8 < max(fractions) <= 1


def test_the_default_fraction_is_for_cracks_only():
    assert datasets.synthetic_fraction(None, CLASSES, multiscale=True) == datasets.DEFAULT_FRACTION
    assert datasets.synthetic_fraction(None, CLASSES, multiscale=False) == 0
    assert datasets.synthetic_fraction(0.0, CLASSES, multiscale=True) == 0
    assert datasets.synthetic_fraction(None, ["cats", "dogs"], multiscale=True) == 0
    assert datasets.synthetic_fraction(0.25, CLASSES, multiscale=False) == 0.25
    with pytest.raises(UserError, match="requires the classes Negative and Positive, not cats, dogs"):
        datasets.synthetic_fraction(0.25, ["cats", "dogs"], multiscale=True)


def test_mask_loss_by_hand():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2] = torch.tensor([[COVERED, 0], [0, 0]])  # a quarter is covered: the target is a half
    masks[0, :2, 2:] = COVERED  # a crack
    masks[0, 2:, 2:] = torch.tensor([[UNKNOWN, 0], [0, 0]])  # not counted
    evidence = torch.tensor([[[0.3, 2.0], [-1.0, 9.0]]])
    expected = binary_cross_entropy_with_logits(
        torch.tensor([0.3, 2.0, -1.0]), torch.tensor([0.5, 1, 0]), pos_weight=torch.tensor(POSITIVE_WEIGHT)
    )
    torch.testing.assert_close(mask_loss(evidence, masks), expected)
    assert mask_loss(evidence, torch.full_like(masks, UNKNOWN)) == 0
