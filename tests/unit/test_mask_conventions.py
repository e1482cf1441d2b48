"""Masks in the conventions of annotation tools give the same (H, W) bool, or are refused."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from crackcam.data.images import DecodedImage
from crackcam.data.masks import read_masks
from crackcam.errors import UserError

SHAPE = (60, 80)


def crack(number):
    mask = np.zeros(SHAPE, np.uint8)
    cv2.line(mask, (5, 10 + number), (70, 50 - number), 1, 3)
    return mask.astype(bool)


def photograph(number):
    return DecodedImage(Path(f"photos/{number}.jpg"), np.zeros((*SHAPE, 3), np.uint8))


def read(folder, *files):
    """The masks of files that are images, arrays, or functions of a path."""
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        image = Image.fromarray(file) if isinstance(file, np.ndarray) else file
        image.save(folder / f"{number}.png")
    return read_masks(folder, [photograph(number) for number in range(len(files))])


def palette(mask, colour):
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *colour])
    return image


def coloured(mask, colour, background=(0, 0, 0)):
    return np.where(mask[..., None], np.uint8(colour), np.uint8(background))


def opaque(mask, colour):
    alpha = mask.astype(np.uint8) * 255
    return np.dstack([np.broadcast_to(np.uint8(colour), (*SHAPE, 3)), alpha])


CONVENTIONS = {
    "0 and 255": lambda mask: mask.astype(np.uint8) * 255,
    "0 and 1": lambda mask: mask.astype(np.uint8),
    "0 and 38": lambda mask: mask.astype(np.uint8) * 38,
    "1 bit": lambda mask: Image.fromarray(mask),
    "16 bits, 0 and 1": lambda mask: mask.astype(np.uint16),
    "16 bits": lambda mask: mask.astype(np.uint16) * 65535,
    "palette of VOC": lambda mask: palette(mask, (128, 0, 0)),
    "palette of white": lambda mask: palette(mask, (255, 255, 255)),
    "RGB": lambda mask: coloured(mask, (255, 255, 255)),
    "RGB, 0 and 1": lambda mask: coloured(mask, (1, 1, 1)),
    "red on black": lambda mask: coloured(mask, (255, 0, 0)),
    "blue on black": lambda mask: coloured(mask, (0, 0, 255)),
    "alpha 255": lambda mask: np.dstack([coloured(mask, (255, 255, 255)), np.full(SHAPE, 255, np.uint8)]),
    "black on transparent": lambda mask: opaque(mask, (0, 0, 0)),
    "white on transparent": lambda mask: opaque(mask, (255, 255, 255)),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_among_0_and_255(tmp_path, name):
    masks = [crack(number) for number in range(3)]
    files = [masks[0].astype(np.uint8) * 255, CONVENTIONS[name](masks[1]), masks[2].astype(np.uint8) * 255]
    for found, mask in zip(read(tmp_path, *files), masks, strict=True):
        assert found.dtype == bool
        assert np.array_equal(found, mask)


@pytest.mark.parametrize("name", ["0 and 255", "1 bit", "RGB", "16 bits"])
def test_black_on_white(tmp_path, caplog, name):
    masks = [crack(0), crack(5), np.zeros(SHAPE, bool)]
    files = [CONVENTIONS[name](~mask) for mask in masks]
    for found, mask in zip(read(tmp_path, *files), masks, strict=True):
        assert np.array_equal(found, mask)
    assert caplog.messages == [f"the masks in {tmp_path} are white on most of their images: taken as black on white"]


def test_red_on_white(tmp_path):
    masks = [crack(0), crack(5)]
    for found, mask in zip(
        read(tmp_path, *(coloured(mask, (255, 0, 0), (255, 255, 255)) for mask in masks)), masks, strict=True
    ):
        assert np.array_equal(found, mask)


def test_one_inverted_mask_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"1.png is white on 9\d% of its image, .*0.png on \d%: some .* are inverted"):
        read(tmp_path, crack(0).astype(np.uint8) * 255, (~crack(5)).astype(np.uint8) * 255)


def test_large_objects_stay_as_they_are(tmp_path, caplog):
    masks = []
    for border in (2, 12, 25):
        masks.append(np.zeros(SHAPE, bool))
        masks[-1][border:-border, border:-border] = True
    for found, mask in zip(read(tmp_path, *(mask.astype(np.uint8) * 255 for mask in masks)), masks, strict=True):
        assert np.array_equal(found, mask)
    assert caplog.messages == []


@pytest.mark.parametrize("quality", [50, 95])
def test_jpeg_and_smooth_edges(tmp_path, quality):
    mask = crack(0)
    smooth = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (3, 3), 0)
    Image.fromarray(smooth).save(tmp_path / "0.jpg", quality=quality)
    (found,) = read_masks(tmp_path, [photograph(0)])
    assert np.array_equal(found, np.array(Image.open(tmp_path / "0.jpg")) > 127)
    assert (found & mask).sum() / (found | mask).sum() > 0.8
    (tmp_path / "0.jpg").unlink()
    (found,) = read(tmp_path, smooth)
    assert np.array_equal(found, smooth > 127)


def labels(*values):
    found = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        found[10:20, 20 * number : 20 * number + 15] = value
    return found


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3), (1, 255), (85, 170, 255), (128, 255)])
def test_several_labels_are_refused(tmp_path, values):
    with pytest.raises(UserError, match=r"0.png: it has \d values, as of several labels: make one file of each label"):
        read(tmp_path, labels(*values))


def test_several_colours_are_refused(tmp_path):
    file = coloured(crack(0), (255, 0, 0))
    file[40:, 60:] = (0, 255, 0)
    with pytest.raises(UserError, match="it has 3 values, as of several labels"):
        read(tmp_path, file)


def test_photographs_are_no_masks(tmp_path):
    rng = np.random.default_rng(0)
    for shape in (SHAPE, (*SHAPE, 3)):
        with pytest.raises(UserError, match="it has grey values throughout, as a photograph"):
            read(tmp_path, cv2.GaussianBlur(rng.integers(0, 256, shape, np.uint8), (5, 5), 0))


@pytest.mark.parametrize(("one", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_either_unicode_form(tmp_path, one, other):
    one, other = (unicodedata.normalize(form, "Brüche") for form in (one, other))
    Image.fromarray(crack(0)).save(tmp_path / f"{one}.png")
    (found,) = read_masks(tmp_path, [DecodedImage(Path(f"{other}.jpg"), np.zeros((*SHAPE, 3), np.uint8))])
    assert np.array_equal(found, crack(0))


def test_two_images_of_one_mask_are_refused(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "masks/1.png")
    images = [DecodedImage(tmp_path / site / "1.png", np.zeros((8, 8, 3), np.uint8)) for site in ("a", "b")]
    assert len(read_masks(tmp_path / "masks", images[:1])) == 1
    with pytest.raises(UserError, match="a/1.png and .*b/1.png would have the same mask, .*masks/1.png: rename one"):
        read_masks(tmp_path / "masks", images)
