"""Picture files of every kind -> upright RGB, or a reason in a few words."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackcam.data import images, listing, pixels
from crackcam.preprocessing import GREY, Preprocessing, squash


@pytest.fixture
def rgb():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:10, :15] = [200, 40, 10]
    image[10:, 15:] = [10, 60, 220]
    return image


def saved(path, image, mode="RGB", **options):
    Image.fromarray(image).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.gif", "A.PNG"])
def test_formats_without_loss(tmp_path, rgb, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    assert np.array_equal(images.read_image(saved(tmp_path / name, rgb, **options)), rgb)


def test_content_counts_not_the_extension(tmp_path, rgb):
    for name in ("a.jfif", "b", "c.png", "d.txt"):
        saved(tmp_path / name, rgb, format="JPEG", quality=95)
        assert np.abs(images.read_image(tmp_path / name).astype(int) - rgb).mean() < 4


def test_grey_palette_and_one_bit(tmp_path, rgb):
    grey = images.read_image(saved(tmp_path / "l.png", rgb, "L"))
    assert grey.shape == (20, 30, 3)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert grey[0, 0, 0] == pytest.approx(0.299 * 200 + 0.587 * 40 + 0.114 * 10, abs=1)
    Image.fromarray(rgb).quantize(4).save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.abs(images.read_image(tmp_path / "p.png").astype(int) - rgb).max() <= 2
    assert set(np.unique(images.read_image(saved(tmp_path / "1.png", rgb, "1")))) <= {0, 255}


def test_transparency_is_over_white(tmp_path, rgb):
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 128
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "rgba.png")
    image = images.read_image(tmp_path / "rgba.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert np.allclose(image[0, 1], rgb[0, 1] * (128 / 255) + 127, atol=2)
    assert np.array_equal(image[5:], rgb[5:])


def test_sixteen_bit_and_float(tmp_path):
    values = np.linspace(0, 65535, 600).reshape(20, 30)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.png")
    assert np.allclose(images.read_image(tmp_path / "16.png")[..., 0], values / 257, atol=1)
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "float.tiff")
    assert np.allclose(images.read_image(tmp_path / "float.tiff")[..., 1], values / 257, atol=1)


def test_cmyk(tmp_path, rgb):
    image = images.read_image(saved(tmp_path / "cmyk.jpg", rgb, "CMYK", quality=95))
    assert image.shape == (20, 30, 3)
    assert image[2, 2, 0] > 150
    assert image[15, 25, 2] > 150


def test_exif_rotation_is_applied(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated: rotate by 90 degrees clockwise to view
    saved(tmp_path / "rotated.png", rgb, exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "rotated.png"), np.rot90(rgb, -1))


def test_one_pixel(tmp_path):
    saved(tmp_path / "dot.png", np.full((1, 1, 3), 77, np.uint8))
    image = images.read_image(tmp_path / "dot.png")
    assert (squash(image, 64) == 77).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"\xff\xd8\xff\xe0 nothing", "truncated"),
    ],
)
def test_reasons(tmp_path, content, reason):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(images.ImageError, match=reason):
        images.read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png"])
def test_truncated(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    whole = saved(tmp_path / name, noise).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(images.ImageError, match="truncated"):
        images.read_image(tmp_path / name)


def test_folders_missing_files_and_bombs(tmp_path, monkeypatch):
    with pytest.raises(images.ImageError, match="no such file"):
        images.read_image(tmp_path / "gone.jpg")
    with pytest.raises(images.ImageError, match="is a directory"):
        images.read_image(tmp_path)
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    with pytest.raises(images.ImageError, match="more than 0 megapixels"):
        images.read_image(saved(tmp_path / "large.png", np.zeros((30, 30, 3), np.uint8)))


def test_reading_many_keeps_their_order(tmp_path, rgb):
    paths = [saved(tmp_path / f"{i}.png", np.full((4, 4, 3), i, np.uint8)) for i in range(100)]
    paths[37].write_bytes(b"broken")
    found = list(images.read_images(paths, threads=3))
    assert [item.path for item in found] == paths
    assert isinstance(found[37], images.UnreadableImage)
    assert [int(item.pixels[0, 0, 0]) for item in found if isinstance(item, images.DecodedImage)] == [
        *range(37),
        *range(38, 100),
    ]


def test_files_below_in_natural_order(tmp_path):
    for name in ("10.jpg", "9.jpg", "b/1.jpg", ".hidden/x.jpg", ".DS_Store", "a1b2.jpg", "a1b10.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [p.relative_to(tmp_path).as_posix() for p in listing.list_files(tmp_path)]
    assert names == ["9.jpg", "10.jpg", "a1b2.jpg", "a1b10.jpg", "b/1.jpg"]


def test_squash_keeps_the_whole_image(rgb):
    fitted = squash(rgb, 10)
    assert fitted.shape == (10, 10, 3)
    assert fitted[0, 0].tolist() == [200, 40, 10]
    assert fitted[9, 9].tolist() == [10, 60, 220]
    assert squash(fitted, 10) is fitted


def test_sample_leaves_out_what_cannot_be_read(tmp_path, rgb):
    paths = [saved(tmp_path / f"{i}.png", rgb) for i in range(6)]
    paths[2].write_bytes(b"")
    decoded, unreadable = images.sample_images(paths, 9, seed=0)
    assert {p.path for p in decoded} == {*paths} - {paths[2]}
    assert [(u.path, u.reason) for u in unreadable] == [(Path(paths[2]), "empty file")]


def test_small_images_are_not_enlarged_but_padded():
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    preprocessing = Preprocessing(64, max_scale=1.0)
    square = preprocessing.apply(image)
    rows, columns = preprocessing.inside(30, 50)
    assert square.shape == (64, 64, 3)
    assert (rows, columns) == (slice(17, 47), slice(7, 57))
    assert (square[rows, columns] == image).all()
    square[rows, columns] = GREY
    assert (square == GREY).all()


def test_large_images_keep_their_proportions():
    image = np.zeros((100, 400, 3), np.uint8)
    preprocessing = Preprocessing(64, max_scale=1.0)
    assert preprocessing.inside(100, 400) == (slice(24, 40), slice(0, 64))
    assert preprocessing.apply(image).shape == (64, 64, 3)
    assert preprocessing.seen(100, 400) == (slice(0, 100), slice(0, 400))


def test_twice_the_size_enlarges_twice():
    preprocessing = Preprocessing(64, max_scale=1.0).at_scale(2)
    assert preprocessing.inside(30, 50) == (slice(34, 94), slice(14, 114))
    square = preprocessing.apply(np.full((30, 50, 3), 7, np.uint8))
    assert (square == 7).all(axis=2).sum() == 60 * 100


@pytest.mark.parametrize(("largest", "side"), [((40, 90), 96), ((300, 20), 128), ((30, 20), 64)])
def test_training_goes_by_the_largest_image(tmp_path, largest, side):
    for index, size in enumerate(((20, 20), largest)):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = {"a": sorted(tmp_path.iterdir())}
    preprocessing = Preprocessing(128, max_scale=1.0)
    assert pixels.training_preprocessing(files, preprocessing, 64) == Preprocessing(side, max_scale=1.0)
    assert pixels.training_preprocessing(files, Preprocessing(128), 64) == Preprocessing(128)


def test_images_that_are_read_ahead_hold_a_bounded_number_of_bytes(tmp_path):
    """Of 60 images 32 would be read ahead; of large ones no more than fit, and one in each thread."""
    paths = [tmp_path / f"{number:02}.png" for number in range(60)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(path)
    lock, read, most = threading.Lock(), [0], []

    def prepare(pixels):
        with lock:
            read[0] += 1
        return pixels[0, 0, 0], np.empty(1_000_000, np.uint8)

    for used, image in enumerate(images.read_images(paths, prepare, threads=4, ahead_bytes=3_000_000)):
        if used in (0, 20, 40):
            time.sleep(0.2)  # the threads read as many as they may
        assert image.pixels[0] == used
        most.append(read[0] - used)
    assert 4 <= max(most) <= 1 + 3 + 1 + 4
    # images that hold little are read as far ahead as before
    read[0] = 0
    reading = images.read_images(paths, prepare, threads=4)
    next(reading)
    time.sleep(0.2)
    assert read[0] == 33
    reading.close()


def test_an_image_larger_than_the_bound_is_read(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(path)
    assert len(list(images.read_images([path] * 9, threads=2, ahead_bytes=1))) == 9
