"""Files that Pillow decodes without an error, but not to the scene, are refused with the reason."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from crackcam.data import images
from crackcam.data.sources import read_source
from crackcam.errors import UserError

RNG = np.random.default_rng(0)


def write_tiff(path, *pages):
    """Uncompressed TIFF pages: an array (H, W) or (H, W, C), and further tags; the last entry 330 makes sub-pages."""
    out = bytearray(b"II*\0" + struct.pack("<I", 8))

    def page(array, tags, next_at):
        array = array if array.ndim == 3 else array[..., None]
        height, width, bands = array.shape
        planes = [array[..., i].tobytes() for i in range(bands)] if tags.get(284) == 2 else [array.tobytes()]
        values = {
            256: width,
            257: height,
            258: [8 * array.itemsize] * bands,
            259: 1,
            262: 2 if bands > 1 else 1,
            277: bands,
            278: height,
            279: [len(plane) for plane in planes],
            **tags,
        }
        values[273] = [0] * len(planes)
        start, length = len(out), 2 + 12 * len(values) + 4
        extra = start + length
        values[273] = list(np.cumsum([0, *values[279][:-1]]) + extra + 1000)
        head, more = struct.pack("<H", len(values)), b""
        for tag in sorted(values):
            found = values[tag] if isinstance(values[tag], list) else [values[tag]]
            packed = struct.pack(f"<{len(found)}I", *map(int, found))
            if len(packed) > 4:
                packed, more = struct.pack("<I", extra + len(more)), more + packed
            head += struct.pack("<HHI", tag, 4, len(found)) + packed
        body = (head + struct.pack("<I", 0) + more).ljust(length + 1000, b"\0") + b"".join(planes)
        if next_at:
            out[next_at : next_at + 4] = struct.pack("<I", start)
        out.extend(body)
        return start + length - 4

    at = 0
    for array, tags in pages:
        at = page(array, tags, at)
    path.write_bytes(out)
    return path


def refused(path, *words):
    for read in (images.read_image, images.read_size):
        with pytest.raises(images.ImageError) as caught:
            read(path)
        assert all(word in str(caught.value) for word in words), caught.value
        assert len(str(caught.value)) <= 100


def colours(side, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, (side, side, 3), dtype, endpoint=True)


def test_the_writer_of_these_tests_writes_tiff(tmp_path):
    for planar in (1, 2):
        pixels = colours(20)
        assert np.array_equal(images.read_image(write_tiff(tmp_path / "a.tif", (pixels, {284: planar}))), pixels)
    deep = colours(20, np.uint16)
    assert np.array_equal(images.read_image(write_tiff(tmp_path / "b.tif", (deep, {284: 1}))), deep >> 8)


# -- thumbnails ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [{254: 1}, {}])
def test_a_first_page_that_is_a_thumbnail(tmp_path, tags):
    path = write_tiff(tmp_path / "a.tif", (colours(32), tags), (colours(200), {}))
    refused(path, "its first page is a thumbnail of 32 x 32")
    refused(write_tiff(tmp_path / "b.tif", (colours(32), {254: 1})), "thumbnail of 32 x 32")


def test_the_scene_below_a_thumbnail_may_be_of_a_kind_that_pillow_cannot_read(tmp_path):
    raw = RNG.integers(0, 65535, (200, 200, 1), np.uint16)
    refused(write_tiff(tmp_path / "a.tif", (colours(32), {}), (raw, {262: 32803})), "thumbnail of 32 x 32")


def test_a_scene_in_a_page_below_the_first(tmp_path):
    """As in NEF and ARW: tag 330 leads to it, the chain of pages does not."""
    path = write_tiff(tmp_path / "a.nef", (colours(32), {330: 0}), (colours(200), {}))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    link = first + 2 + 12 * count
    entries = [first + 2 + 12 * i for i in range(count)]
    (below,) = [at for at in entries if struct.unpack_from("<H", data, at)[0] == 330]
    data[below + 8 : below + 12] = data[link : link + 4]
    data[link : link + 4] = bytes(4)
    path.write_bytes(data)
    refused(path, "thumbnail of 32 x 32")


def test_a_dng_is_refused_whatever_its_pages(tmp_path):
    refused(write_tiff(tmp_path / "a.dng", (colours(200), {50706: 0x0401})), "DNG", "develop it")


def test_overviews_masks_and_equal_pages_behind_the_scene_are_no_reason(tmp_path):
    scene = colours(64)
    path = write_tiff(tmp_path / "a.tif", (scene, {}), (colours(32), {254: 1}), (colours(64), {}), (colours(90), {}))
    assert np.array_equal(images.read_image(path), scene)


def test_a_damaged_second_page_does_not_spoil_the_first(tmp_path):
    scene = colours(64)
    path = write_tiff(tmp_path / "a.tif", (scene, {}), (colours(200), {}))
    data = path.read_bytes()
    cut = data.index(scene.tobytes()) + scene.nbytes
    path.write_bytes(data[:cut])
    assert np.array_equal(images.read_image(path), scene)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_several(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (shade, shade, shade)) for shade in (0, 255, 255)]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a") as image:
        assert len(list(ImageSequence.Iterator(image))) >= 2
    assert (images.read_image(tmp_path / "a") == 0).all()


# -- scrambled ----------------------------------------------------------------------------------------------------------


def test_planes_of_16_bits(tmp_path):
    refused(write_tiff(tmp_path / "a.tif", (colours(20, np.uint16), {284: 2})), "plane for each colour", "interleaved")


def test_compressed_16_bits_are_read(tmp_path):
    """By libtiff, and right."""
    pixels = colours(20, np.uint16)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    assert np.array_equal(images.read_image(tmp_path / "a.tif"), pixels >> 8)


def test_signed_8_bit_values(tmp_path):
    values = np.arange(-50, 50, dtype=np.int8).reshape(10, 10)
    refused(write_tiff(tmp_path / "a.tif", (values, {339: 2})), "signed 8-bit values", "save 0 to 255")


def test_kinds_of_tiff_that_pillow_cannot_read(tmp_path):
    refused(write_tiff(tmp_path / "a.tif", (RNG.random((8, 8, 3)).astype(np.float64), {339: 3})), "Pillow cannot read")


def test_16_bits_where_0_is_white(tmp_path):
    grey = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    refused(write_tiff(tmp_path / "a.tif", (grey, {262: 0})), "0 is white")


# -- scales -------------------------------------------------------------------------------------------------------------


def refused_pixels(path, *words):
    with pytest.raises(images.ImageError) as caught:
        images.read_image(path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) <= 100


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(12.5, 45.25, "12.5 to 45.25"), (0, 255, "0 to 255"), (-20, 0.5, "-20 to 0.5"), (0, np.inf, "0 to inf")],
)
def test_floats_that_are_not_from_0_to_1(tmp_path, low, high, shown):
    values = np.full((8, 8), low, np.float32)
    values[3, 3], values[4, 4] = high, np.nan
    Image.fromarray(values).save(tmp_path / "thermal.tif")
    refused_pixels(tmp_path / "thermal.tif", f"float values from {shown}, not from 0 to 1", "scale it to 8 bits")


def test_floats_from_0_to_1_are_scaled(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 1] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    expected = np.rint(np.nan_to_num(values) * 255)
    assert np.array_equal(images.read_image(tmp_path / "a.tif")[..., 1], expected)
    Image.fromarray(values * 1.05 - 0.03).save(tmp_path / "b.tif")  # as resampling leaves it
    assert images.read_image(tmp_path / "b.tif").max() == 255
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "c.tif")
    refused_pixels(tmp_path / "c.tif", "nan")


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_fewer_bits_in_16(tmp_path, bits, suffix):
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    refused_pixels(path, f"16-bit values that end at {2**bits - 1:,}", "multiply them by 16")
    Image.fromarray(values << (16 - bits)).save(path)
    assert np.array_equal(images.read_image(path)[..., 0], np.rint((values << (16 - bits)).astype(np.float32) / 257))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_of_colours(tmp_path, suffix):
    values = RNG.integers(0, 4096, (8, 8, 3), np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), values)
    refused_pixels(path, "16-bit values that end below 4,096")
    cv2.imwrite(str(path), values << 4)
    assert np.array_equal(images.read_image(path), (values << 4 >> 8)[..., ::-1])
    cv2.imwrite(str(path), values * 0)
    assert (images.read_image(path) == 0).all()


def test_signed_and_32_bit_integers(tmp_path):
    for low, high, shown in ((-200, 450, "-200 to 450"), (0, 10**9, "0 to 1,000,000,000")):
        Image.fromarray(np.array([[low, high]], np.int32)).save(tmp_path / "a.tif")
        refused_pixels(tmp_path / "a.tif", f"values from {shown}, not from 0 to 65,535")
    kelvin = np.linspace(29000, 31000, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(kelvin).save(tmp_path / "a.tif")
    refused_pixels(tmp_path / "a.tif", "values from 29,000 to 31,000 only, as of temperatures")
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "a.tif")
    assert (images.read_image(tmp_path / "a.tif") == 117).all()  # of one value: a blank image
    Image.fromarray(np.array([[0, 25700, 65535]], np.int32)).save(tmp_path / "a.tif")
    assert images.read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "black.png")
    assert (images.read_image(tmp_path / "black.png") == 0).all()


# -- alpha, palettes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_scene_below_an_alpha_channel_of_zeros(tmp_path, mode):
    image = Image.fromarray(colours(8)).convert(mode)
    for alpha in (1, 0):  # 0 and 1 instead of 0 and 255
        image.putalpha(alpha)
        image.save(tmp_path / "a.png")
        refused_pixels(tmp_path / "a.png", "every pixel is transparent", "without its alpha channel")
    with pytest.raises(UserError, match="every pixel is transparent"):
        list(read_source(image))
    image.putalpha(255)
    image.save(tmp_path / "a.png")
    assert np.array_equal(images.read_image(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_a_palette_with_transparency_is_over_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 10, 20, 30, 250, 240, 230])
    image.save(tmp_path / "a.png", transparency=1)
    expected = [[[0, 0, 0], [255, 255, 255]], [[250, 240, 230], [255, 255, 255]]]
    assert images.read_image(tmp_path / "a.png").tolist() == expected
