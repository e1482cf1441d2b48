"""Files that are no readable images are named by their first bytes, with the way out."""

import struct

import numpy as np
import pytest
from PIL import Image

from crackcam.data import images


def box(brand):
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(12)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "kind", "way_out"),
    [
        (box(b"heic"), "HEIC", "pip install pillow-heif, or convert it to JPEG"),
        (box(b"mif1"), "HEIC", "convert it to JPEG"),
        (box(b"avif"), "AVIF", "convert it to JPEG"),
        (box(b"isom"), "video", "ffmpeg"),
        (box(b"qt  "), "video", "ffmpeg"),
        (box(b"crx "), "camera raw", "develop it"),
        (LFS, "Git LFS pointer", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--00.jpg\n", "git-annex pointer", "git annex get"),
        (b"%PDF-1.7\n", "PDF", "export its pages as PNG"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(40), "camera raw", "develop it"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw", "develop it"),
        (b"\n<!DOCTYPE html><title>404</title>", "HTML page", "download the image again"),
        (b"\xef\xbb\xbf<HTML><body>Sign in", "HTML page", "download the image again"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", "export it as PNG"),
        (b"PK\x03\x04" + bytes(40), "archive", "unpack it"),
        (b"\x1f\x8b\x08" + bytes(40), "archive", "unpack it"),
        (bytes(257) + b"ustar", "archive", "unpack it"),
        (b"RIFF\x24\x00\x00\x00AVI LIST", "video", "ffmpeg"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "video", "ffmpeg"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble", "without ._"),
        (b"8BPS\x00\x01" + bytes(40), "Photoshop", "export it as PNG or JPEG"),
        (b"\x93NUMPY\x01\x00", "NumPy array", "load it in Python"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM", "8-bit PNG"),
        (b"\xff\x0a" + bytes(40), "JPEG XL", "convert it to JPEG"),
        (bytes(4096), "zeros", "copy it again"),
    ],
)
def test_the_reason_names_the_kind_and_the_way_out(tmp_path, content, kind, way_out):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(images.ImageError) as caught:
        images.read_image(path)
    reason = str(caught.value)
    assert kind in reason
    assert way_out in reason
    assert len(reason) <= 100


@pytest.mark.parametrize(("content", "reason"), [(b"hello", "not an image"), (b"", "empty file")])
def test_other_files(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(images.ImageError, match=f"^{reason}$"):
        images.read_image(tmp_path / "a.jpg")


def test_images_that_begin_with_zeros_or_text_are_still_read(tmp_path):
    """A name is no evidence, and neither is a first byte: what Pillow decodes is an image."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for kind in ("PNG", "BMP", "PPM", "TIFF"):
        Image.fromarray(pixels).save(tmp_path / "a.pdf", kind)
        assert np.array_equal(images.read_image(tmp_path / "a.pdf"), pixels)
