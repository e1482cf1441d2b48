"""Training pictures with drawn cracks."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import train
from crackcam.data.pixels import PixelSplit
from crackcam.data.synthetic import mixing, sample
from crackcam.data.synthetic.mixing import CLASSES, COVERED, CRACKED, PLAIN, UNKNOWN, BlendedImages, MixedImages
from crackcam.errors import UserError
from crackcam.models.checkpoint import load
from crackcam.training import trainer


@pytest.fixture(scope="module")
def split():
    """Eight generated pictures of each class."""
    made = [cv2.resize(sample.draw(np.random.default_rng([5, i]), cracked=i % 2 == 1)[0], (96, 96)) for i in range(16)]
    pixels = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()
    return PixelSplit(pixels, torch.arange(16) % 2, [])


def test_same_seed_same_examples(split):
    first, again, other = MixedImages(split, 3, 96), MixedImages(split, 3, 96), MixedImages(split, 4, 96)
    for index in range(4):
        for a, b in zip(first[index], again[index], strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert any(not torch.equal(first[i][0], other[i][0]) for i in range(4))


def test_a_split_has_as_many_examples_as_pictures(split):
    made, examples = mixing.mixed_split(split, 3, 96), MixedImages(split, 3, 96)
    assert made.pixels.shape == (16, 3, 96, 96)
    assert made.labels.tolist() == [examples[index][1] for index in range(16)]
    assert all(torch.equal(made.pixels[index], examples[index][0]) for index in range(16))


@pytest.mark.parametrize("lacking", [PLAIN, CRACKED])
def test_a_split_of_one_class_cannot_be_mixed(split, lacking):
    there = split.labels != lacking
    with pytest.raises(UserError, match=f"a split without {CLASSES[lacking]}: add some, or --mix-sample 0"):
        mixing.mixed_split(PixelSplit(split.pixels[there], split.labels[there], []), 0, 96)


def test_masks_agree_with_labels(split):
    examples = [
        MixedImages(split, seed, size)[index] for seed, size in enumerate((227, 128, 300)) for index in range(8)
    ]
    assert {label for _, label, _ in examples} == {PLAIN, CRACKED}
    for picture, label, mask in examples:
        assert picture.shape == (3, *mask.shape)
        assert picture.dtype == mask.dtype == torch.uint8
        known = mask[mask != UNKNOWN]
        if label == PLAIN:
            assert len(known) == mask.numel()
            assert (known <= COVERED).all()
            assert (known > COVERED / 2).sum() < mixing.LEAST
        else:
            assert len(known) < mask.numel() or (known > 0).any()


def test_cracks_darken_where_their_mask_says(split, monkeypatch):
    monkeypatch.setattr(mixing, "DISTRACTING", 0)
    monkeypatch.setattr(mixing, "REAL", 0)
    mixed = MixedImages(split, 0, 227)
    darker = []
    for index in range(30):
        example = mixed.example(np.random.default_rng([1, index]), cracked=True)
        assert example.cracked
        crack = example.mask > 0
        around = cv2.dilate(crack.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~crack
        darker.append(example.picture[crack].mean() < example.picture[around].mean())
    assert np.mean(darker) > 0.9


def test_hairlines_keep_their_width_in_mosaics(split, monkeypatch):
    """They are drawn over the fields, not made smaller with them."""
    monkeypatch.setattr(mixing, "DISTRACTING", 0)
    monkeypatch.setattr(mixing, "REAL", 0)
    monkeypatch.setattr(mixing, "camera", lambda rng, picture: picture)
    monkeypatch.setattr(mixing, "WIDTHS", (2.0, 2.0))
    covered = {}
    for fields in (1, 3):
        monkeypatch.setattr(mixing, "FIELDS", (fields, fields, fields))
        mixed = MixedImages(split, 0, 227)
        masks = [mixed.example(np.random.default_rng([4, index]), cracked=True).mask for index in range(12)]
        assert all(cv2.distanceTransform((m > 0).astype(np.uint8), cv2.DIST_L2, 5).max() >= 1 for m in masks)
        covered[fields] = np.mean([(m > 0).mean() for m in masks])
    assert 0.5 < covered[3] / covered[1] < 2


def test_real_cracks_are_among_them_with_unknown_places(split):
    mixed = MixedImages(split, 0, 227)
    examples = [mixed.example(np.random.default_rng([2, i]), cracked=True) for i in range(40)]
    real = [example for example in examples if (example.mask == UNKNOWN).any()]
    assert 5 < len(real) < 25
    assert all(example.cracked for example in real)
    assert all(set(np.unique(example.mask)) <= {0, UNKNOWN} for example in real)


@pytest.mark.parametrize("distractor", [mixing.courses, mixing.moulding, mixing.peeling])
def test_distractors_change_the_light_alone(distractor):
    for seed in range(8):
        tone = distractor(np.random.default_rng(seed), np.ones((sample.SIDE, sample.SIDE), np.float32), 1.0)
        assert tone.shape == (sample.SIDE, sample.SIDE)
        assert tone.dtype == np.float32
        assert np.isfinite(tone).all()
        assert tone.std() > 1e-3
        assert -0.1 < tone.min() <= tone.max() < 4


@pytest.mark.parametrize("scale", [0.33, 1.0, 2.2])
def test_zoom_keeps_the_size(scale, monkeypatch):
    monkeypatch.setattr(np, "exp", lambda _: scale)
    picture = np.random.default_rng(0).integers(0, 255, (227, 227, 3)).astype(np.uint8)
    assert mixing.zoomed(np.random.default_rng(0), picture).shape == (227, 227, 3)


def test_blend_takes_its_share_and_knows_plain_pictures(split):
    pictures = [(split.pixels[i], int(split.labels[i])) for i in range(16)]
    for share, low, high in ((0.0, 0, 0), (0.5, 3, 13), (1.0, 16, 16)):
        blend = BlendedImages(pictures, MixedImages(split, 0, 96), share)
        assert len(blend) == 16
        assert low <= blend.taken.sum() <= high
    untouched = BlendedImages(pictures, MixedImages(split, 0, 96), 0.0)
    picture, label, mask = untouched[4]
    assert label == PLAIN
    rng = np.random.default_rng([0, 4])
    assert torch.equal(picture, mixing.shifted(rng, split.pixels[4]))
    assert torch.equal(untouched[4][0], picture)
    assert (mask == 0).all()
    assert (untouched[5][2] == UNKNOWN).all()  # somewhere in a picture of a crack


def test_shifted_pictures_show_their_frame():
    picture = torch.full((3, 8, 8), 7, dtype=torch.uint8)
    shares = []
    for seed in range(40):
        moved = mixing.shifted(np.random.default_rng(seed), picture)
        assert moved.shape == picture.shape
        own = (moved == 7).all(dim=0)
        assert (moved[:, ~own] == torch.tensor(mixing.GREY)[:, None]).all()
        shares.append(own.float().mean().item())
    assert 0.25 <= min(shares) < 0.6
    assert 0.8 < max(shares) <= 1


def test_default_share_is_for_cracks_only():
    assert mixing.mix_fraction(None, CLASSES, multiscale=True) == mixing.SHARE
    assert mixing.mix_fraction(None, CLASSES, multiscale=False) == 0
    assert mixing.mix_fraction(0.0, CLASSES, multiscale=True) == 0
    assert mixing.mix_fraction(None, ["cats", "dogs"], multiscale=True) == 0
    assert mixing.mix_fraction(0.25, CLASSES, multiscale=False) == 0.25
    with pytest.raises(UserError, match="Negative and Positive"):
        mixing.mix_fraction(0.25, ["cats", "dogs"], multiscale=True)


def test_mask_loss_by_hand():
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, :2, :2] = torch.tensor([[COVERED, 0], [0, 0]])  # a quarter of the place: a half is wanted
    masks[0, :2, 2:] = COVERED  # a crack
    masks[0, 2:, 2:] = torch.tensor([[UNKNOWN, 0], [0, 0]])  # not counted
    evidence = torch.tensor([[[0.3, 2.0], [-1.0, 9.0]]])
    expected = binary_cross_entropy_with_logits(
        torch.tensor([0.3, 2.0, -1.0]), torch.tensor([0.5, 1, 0]), pos_weight=torch.tensor(trainer.CRACKS_ARE_RARE)
    )
    torch.testing.assert_close(trainer.mask_loss(evidence, masks), expected)
    assert trainer.mask_loss(evidence, torch.full_like(masks, UNKNOWN)) == 0


QUICK = ["--pretrained", "none", "--image-size", "64", "--batch-size", "8", "--workers", "0", "--head", "multiscale"]


def test_masks_teach_the_map(fresh, capsys):
    """Three runs: as is, with labels alone, without drawn cracks. They differ, and say so."""
    learned = []
    for flags in ([], ["--mask-weight", "0"], ["--mix-sample", "0"]):
        assert train.main([*QUICK, "--epochs", "1", *flags]) == 0
        said = capsys.readouterr().err
        assert ("cracks are drawn into 50.0 % of the pictures" in said) == ("--mix-sample" not in flags)
        network, _ = load(fresh.root / "weights/model.safetensors", torch.device("cpu"))
        learned.append(network.maps[0][1].weight.detach())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (learned[i] - learned[j]).abs().max() > 1e-5


def test_other_classes_cannot_be_mixed(fresh, capsys):
    (fresh.root / "data/train/Negative").rename(fresh.root / "data/train/cats")
    assert train.main([*QUICK, "--mix-sample", "0.5"]) == 2
    assert "--mix-sample draws cracks" in capsys.readouterr().err
