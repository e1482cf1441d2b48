"""Fuzz the image decoder with mutated files; a file is determined by its number alone.

python tests/fuzz_pictures.py FOLDER FIRST COUNT [LOG]

Decodes the files number FIRST, FIRST + 1, ... by crackcam.data.images, in a process that is killed where one takes more
CPU time than SECONDS or more memory than MEMORY. FOLDER/number is the number of the current file; the last line of the
output is a JSON summary. With LOG, a line is printed for each file: number, kind and result.
"""

import functools
import io
import json
import random
import resource
import signal
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

sys.path.insert(0, str(Path(__file__).parents[1]))

from crackcam.data import images
from crackcam.preprocessing import Preprocessing

SECONDS = 20
MEMORY = 6 * 2**30  # address space; the largest image that is accepted takes two thirds of it
NUMBERS = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536]
NUMBERS += [2**24, 2**31 - 1, 2**31, 2**32 - 1]


@functools.cache
def seeds():
    """Small undamaged images of all kinds, in all supported formats: name -> bytes."""
    rng = np.random.default_rng(0)
    rgb = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((48, 32)))
    plain = Image.fromarray(rgb)
    alpha = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
    grey16 = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = {"save_all": True, "append_images": []}
    kinds = {
        "jpeg": (plain, "JPEG", {"quality": 80}),
        "jpeg_progressive": (plain, "JPEG", {"progressive": True, "exif": exif, "icc_profile": icc}),
        "jpeg_grey": (plain.convert("L"), "JPEG", {}),
        "jpeg_cmyk": (plain.convert("CMYK"), "JPEG", {"icc_profile": icc}),
        "jpeg_restart": (plain, "JPEG", {"restart_marker_rows": 1, "subsampling": 0}),
        "mpo": (plain, "MPO", frames),
        "png": (plain, "PNG", {"exif": exif}),
        "png_alpha": (alpha, "PNG", {"icc_profile": icc}),
        "png_palette": (plain.quantize(16), "PNG", {"transparency": 3}),
        "png_16": (grey16, "PNG", {}),
        "png_1": (plain.convert("1"), "PNG", {}),
        "png_animated": (plain, "PNG", frames),
        "webp": (plain, "WEBP", {"quality": 60, "exif": exif}),
        "webp_lossless": (alpha, "WEBP", {"lossless": True}),
        "webp_animated": (plain, "WEBP", frames),
        "tiff": (plain, "TIFF", {"exif": exif}),
        "tiff_16": (grey16, "TIFF", {}),
        "tiff_float": (Image.fromarray(rgb[..., 0] / np.float32(255)), "TIFF", {}),
        "tiff_cmyk": (plain.convert("CMYK"), "TIFF", {"icc_profile": icc}),
        "tiff_pages": (plain, "TIFF", frames),
        **{
            f"tiff_{kind}": (image, "TIFF", {"compression": kind})
            for kind, image in (
                ("tiff_lzw", plain),
                ("tiff_adobe_deflate", alpha),
                ("packbits", plain),
                ("jpeg", plain),
                ("group4", plain.convert("1")),
            )
        },
        "bmp": (plain, "BMP", {}),
        "bmp_palette": (plain.quantize(200), "BMP", {}),
        "bmp_1": (plain.convert("1"), "BMP", {}),
        "gif": (plain.quantize(64), "GIF", {}),
        "gif_transparent": (plain.quantize(16), "GIF", {"transparency": 2}),
        "gif_animated": (plain, "GIF", {**frames, "duration": 20}),
        "ppm": (plain, "PPM", {}),
        "jpeg2000": (plain, "JPEG2000", {}),
        "avif": (plain, "AVIF", {"exif": exif, "speed": 10}),
    }
    found = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        if "append_images" in options:  # new objects: Pillow keeps settings of one format for the next
            options = {**options, "append_images": [plain.rotate(90), plain.rotate(180)]}
        image.copy().save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    return found


def mutated(number, of):
    """The file of that number: its name, and its bytes."""
    rng = random.Random(number)
    names = list(of)
    name = rng.choice(names)
    data = bytearray(of[name])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        _mutate(data, rng, of[rng.choice(names)])
    if data.startswith(b"\x89PNG") and rng.random() < 0.9:
        _fix_checksums(data)  # else no mutation would reach the code behind them
    return name, bytes(data)


def _mutate(data, rng, other):
    if not data:
        return
    # Headers matter more than pixels.
    at = rng.randrange(min(len(data), 64 if rng.random() < 0.4 else len(data)))
    length = rng.choice((1, 2, 4, 8, rng.randrange(1, 200)))
    kind = rng.randrange(9)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind in (2, 3):
        code = rng.choice("HI")
        value = struct.pack(rng.choice("<>") + code, rng.choice(NUMBERS) & (0xFFFF if code == "H" else 0xFFFFFFFF))
        data[at : at + len(value)] = value
    elif kind == 4:
        del data[at : at + length]
    elif kind == 5:
        data[at:at] = data[at : at + length]
    elif kind == 6:
        data[at:at] = rng.randbytes(length)
    elif kind == 7:
        start = rng.randrange(len(other))
        data[at : at + length] = other[start : start + length]
    elif rng.random() < 0.3:
        del data[at:]


def _fix_checksums(png):
    at = 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if at + 12 + length > len(png):
            break
        struct.pack_into(">I", png, at + 8 + length, zlib.crc32(png[at + 4 : at + 8 + length]))
        at += 12 + length


def read(path):
    """ "image", or the reason in a few words; any other exception is raised."""
    try:
        width, height = images.read_size(path)
    except images.ImageError:
        width = height = 0
    try:
        pixels = images.read_image(path)
    except images.ImageError as error:
        reason = str(error)
        assert 0 < len(reason) <= 100, reason
        assert "\n" not in reason, reason
        return reason
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.size <= 3 * images.MAX_PIXELS
    assert pixels.size > 10**7 or Preprocessing(32, 36).apply(pixels).shape == (32, 32, 3)
    return "image" if pixels.shape[:2] == (height, width) else "image of another size than its header says"


def main(folder, first, count, log=None):
    number_file, path = Path(folder, "number").open("w"), Path(folder, "image")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    of, reasons = seeds(), Counter()
    for number in range(int(first), int(first) + int(count)):
        number_file.seek(0)
        number_file.write(f"{number}\n")
        number_file.flush()
        name, data = mutated(number, of)
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        reason = read(path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reasons[reason] += 1
        if log:
            print(number, name, reason)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"read": reasons.total(), "peak": peak, "reasons": reasons.most_common()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
