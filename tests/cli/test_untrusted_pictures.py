"""Untrusted image files: each is read, or reported with a reason, and the rest continues."""

import csv
import functools
import json
import os
import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from fuzz_pictures import seeds
from PIL import Image
from processes import run_python

import inference
import xai
from crackcam.cli import predict
from crackcam.data import images, listing
from crackcam.models import checkpoint, pretrained
from crackcam.preprocessing import Preprocessing
from crackcam.types import ModelCard

FUZZ = ROOT / "tests/fuzz_pictures.py"


# -- mutated files ---------------------------------------------------------------------------------------------------


def fuzz(folder, first, count):
    done = run_python(FUZZ, folder, first, count, timeout=3600)
    at = (folder / "number").read_text()
    assert done.returncode == 0, (
        f"python tests/fuzz_pictures.py FOLDER {at} 1: {done.returncode}, {done.stderr[-2000:]}"
    )
    found = json.loads(done.stdout.splitlines()[-1])
    reasons = dict(found["reasons"])
    assert found["read"] == count == sum(reasons.values())
    assert count / 10 < reasons["image"] < count / 2
    assert reasons["truncated"] > count / 100
    return found


def test_two_thousand_mutated_files(tmp_path):
    fuzz(tmp_path, 0, 2000)


@pytest.mark.torture
@pytest.mark.parametrize("first", range(100_000, 200_000, 10_000))
def test_a_hundred_thousand_mutated_files(tmp_path, first):
    fuzz(tmp_path, first, 10_000)


@pytest.mark.parametrize("name", sorted(seeds()))
def test_whole_files_of_all_kinds(tmp_path, name):
    """Progressive, CMYK with a profile, 16 bits, floats, alpha, palettes, animated, several pages: the first one."""
    path = tmp_path / "image.txt"
    path.write_bytes(seeds()[name])
    pixels = images.read_image(path)
    upright = images.read_size(path)
    assert pixels.shape[1::-1] == upright
    plain = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    plain = np.asarray(Image.fromarray(plain).resize((48, 32)))
    if upright == (32, 48):  # turned by EXIF
        plain = np.rot90(plain, -1)
    if "alpha" in name or name == "webp_lossless" or "deflate" in name:
        opaque = plain[..., :1] / 255
        plain = plain * opaque + 255 * (1 - opaque)
    # of the red channel alone; black and white; of few colours, one of them clear
    few = {"16": 130, "float": 130, "grey": 130, "_1": 120, "group4": 120, "palette": 45, "transparent": 45}
    tolerance = max((most for kind, most in few.items() if kind in name), default=30)
    assert np.abs(pixels.astype(float) - plain).mean() < tolerance


# -- bombs ---------------------------------------------------------------------------------------------------------


def png_of(width, height, size):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(size * 1000), 9)) + chunk(b"IEND", b"")


@functools.cache
def bombs():
    whole = seeds()
    gif, bmp, jpeg = (bytearray(whole[kind]) for kind in ("gif", "bmp", "jpeg"))
    struct.pack_into("<HH", gif, 6, 60000, 60000)
    struct.pack_into("<ii", bmp, 18, 60000, 60000)
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 60000, 60000)
    tiff = whole["tiff_16"]
    for tag, side in ((256, 48), (257, 32)):
        for kind in (3, 4):
            tiff = tiff.replace(struct.pack("<HHII", tag, kind, 1, side), struct.pack("<HHII", tag, kind, 1, 60000))
    return {"png": png_of(60000, 60000, 50_000), "gif": gif, "bmp": bmp, "jpeg": jpeg, "tiff": tiff}


@pytest.mark.parametrize("kind", bombs())
def test_bombs_are_refused_before_they_take_memory(tmp_path, kind):
    path = tmp_path / "bomb"
    path.write_bytes(bombs()[kind])
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(images.ImageError, match="more than 178 megapixels"):
        images.read_image(path)
    with pytest.raises(images.ImageError, match="more than 178 megapixels"):
        images.read_size(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB; decoded it would be 10 GB


def test_the_limit_is_the_one_that_is_said(tmp_path):
    path = tmp_path / "large.png"
    for width, height, says in ((17_895, 10_000, None), (17_896, 10_000, "more than 178 megapixels"),
                                (65_535, 1, None), (1, 65_536, "a side of more than 65,535 pixels")):  # fmt: skip
        path.write_bytes(png_of(width, height, 1))
        if says is None:
            assert images.read_size(path) == (width, height)
        else:
            with pytest.raises(images.ImageError, match=says):
                images.read_size(path)


def test_long_rows_are_refused(tmp_path):
    """Of 2 KB, five million pixels wide: within the megapixels, but it kept Pillow busy for minutes."""
    webp = bytearray(seeds()["webp_animated"])
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (5_570_607).to_bytes(3, "little") + (31).to_bytes(3, "little")
    (tmp_path / "strip.webp").write_bytes(webp)
    with pytest.raises(images.ImageError, match="a side of more than 65,535 pixels"):
        images.read_image(tmp_path / "strip.webp")


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1), (7, 300)])
def test_strips_are_not_scaled_as_a_whole(shape):
    """Of one row, 256 pixels high, a strip would be 15 million wide: 12 GB."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    square = Preprocessing(224, 256).apply(pixels)
    assert square.shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    if shape == (7, 300):
        whole = Image.fromarray(pixels).resize((256 * 300 // 7, 256), Image.Resampling.BILINEAR)
        left = round((whole.width - 224) / 2)
        expected = np.asarray(whole.crop((left, 16, left + 224, 240))).astype(int)
        assert np.abs(square - expected).max() <= 1


# -- programs, threads, what is no file ---------------------------------------------------------------------------------


def test_an_eps_file_is_not_run(tmp_path, monkeypatch):
    """Pillow would hand it to Ghostscript, under any name."""
    from PIL import EpsImagePlugin

    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "crack.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto\n%%EOF\n"
    )
    with pytest.raises(images.ImageError, match="not an image"):
        images.read_image(tmp_path / "crack.jpg")
    assert not (tmp_path / "run").exists()
    with Image.open(tmp_path / "crack.jpg") as image, pytest.raises(OSError, match=r".*"):
        image.load()
    assert (tmp_path / "run").exists()  # so the trap is a real one


def test_reading_threads_leave_warnings_as_they_are(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    for _ in range(3):
        list(images.read_images([tmp_path / "a.png"] * 500, threads=8))
    assert warnings.filters == before


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(images.ImageError, match="not a file but a pipe, socket or device"):
            images.read_image(path)


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "to_rgb", lambda image: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(images.ImageError, match="not enough memory"):
        images.read_image(tmp_path / "a.png")


def test_links_folders_and_loops(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    found = listing.list_files(tmp_path)
    assert [path.name for path in found] == ["a.png", "b.png", "broken.png", "loop.png"]
    reasons = [getattr(item, "reason", "read") for item in images.read_images(found)]
    assert reasons == ["read", "read", "no such file or directory", "too many levels of symbolic links"]


def test_what_may_not_be_read_is_named(tmp_path):
    if os.geteuid():
        pytest.skip("only root can become somebody else, who may not read it")
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    before = Path.cwd()
    os.chdir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "a").chmod(0o700)
    (tmp_path / "b/x.png").chmod(0o600)
    try:
        os.seteuid(65534)
        found = list(images.read_images(listing.list_files(Path())))
    finally:
        os.seteuid(0)
        os.chdir(before)
    assert [(str(item.path), item.reason) for item in found] == [
        ("a", "permission denied"),
        ("b/x.png", "permission denied"),
    ]


def test_a_turned_tiff_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.tiff", exif=exif)
    assert images.read_image(tmp_path / "a.tiff").shape == (30, 20, 3)
    assert images.read_size(tmp_path / "a.tiff") == (20, 30)


# -- through the scripts ------------------------------------------------------------------------------------------------

NAMES = [
    b"new\nline.jpg",
    b"bytes\xff\xfe.jpg",
    b"\x1b[31mred.jpg",
    b"$x^{$.jpg",
    b"<b>&\"'.jpg",
    b"a,b.jpg",
    b"_" * 250 + b".jpg",
]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    torch.manual_seed(0)
    checkpoint.save(path, pretrained.build_classifier("squeezenet1_1", 2), ModelCard("squeezenet1_1", ["a", "b"], 64))
    return str(path)


@pytest.fixture
def flight(tmp_path, monkeypatch):
    """in/: a picture under each of those names, a strip, and what is no image; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save("in/image.jpg")
        Path("in/image.jpg").rename(os.fsdecode(b"in/" + name))
    Image.new("RGB", (5000, 1)).save("in/strip.png")
    Path("in/broken.jpg").symlink_to("nowhere.jpg")
    Path("in/torn.png").write_bytes(seeds()["png"][:500])
    Path("in/bomb.png").write_bytes(png_of(60000, 60000, 1000))
    return {os.fsdecode(b"in/" + name) for name in NAMES} | {"in/strip.png"}


BROKEN = {
    "in/broken.jpg": "no such file or directory",
    "in/torn.png": "truncated",
    "in/bomb.png": "more than 178 megapixels",
}


def test_names_that_are_no_text_in_grids_and_pages(flight, network, capsys):
    flags = ["--weights", network, "--image", "in", "--num", "20"]
    assert inference.main([*flags, "--report", "page.html"]) == 0
    out, err = capsys.readouterr()
    assert "\nin/new\\nline.jpg  " in f"\n{out}"
    assert "\nin/\\x1b[31mred.jpg  " in f"\n{out}"
    assert "in/bytes\\udcff\\udcfe.jpg  " in out
    assert "\x1b[31m" not in out + err
    assert {f"warning: skipped {name}: {why}" for name, why in BROKEN.items()} < set(err.splitlines())
    document = json.loads(Path("outputs/inference_images.json").read_text())
    assert {row["file"] for row in document["pictures"]} == flight
    page = Path("page.html").read_text("utf-8")
    assert "bytes\\udcff\\udcfe.jpg" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    code = xai.main([*flags, "--method", "gradcam", "--style", "mask", "--threshold", "0.001", "--save-maps", "maps"])
    assert code == 0
    assert len(list(Path("maps").iterdir())) == len(flight)
    with Path("outputs/xai_images_gradcam_found.csv").open(
        newline="", encoding="utf-8-sig", errors="surrogateescape"
    ) as file:
        assert {row["file"] for row in csv.DictReader(file)} == flight


@pytest.mark.parametrize("script", [inference, xai])
def test_names_that_are_no_text_in_tables(flight, network, capsys, script):
    method = ["--method", "gradcam"] if script is xai else []
    for suffix in (".csv", ".jsonl"):
        code = script.main(["--weights", network, "--image", "in", "--all", *method, "--output", f"table{suffix}"])
        assert code == 0
        assert "8 images, 3 files not readable" in capsys.readouterr().out
    with Path("table.csv").open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in Path("table.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [line["file"] for line in lines]
    assert {row["file"] for row in rows if not row["error"]} == flight
    assert {row["file"]: row["error"] for row in rows if row["error"]} == BROKEN


def test_files_that_go_or_change_after_they_were_listed(flight, network, capsys, monkeypatch):
    real = predict.select

    def select(*given, **options):
        found = real(*given, **options)
        Path("in/a,b.jpg").unlink()
        Path("in/strip.png").write_bytes(b"something else")
        Path("in/$x^{$.jpg").unlink()
        Path("in/$x^{$.jpg").mkdir()
        return found

    monkeypatch.setattr(predict, "select", select)
    assert inference.main(["--weights", network, "--image", "in", "--all", "--output", "table.csv"]) == 0
    with Path("table.csv").open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        errors = {row["file"]: row["error"] for row in csv.DictReader(file) if row["error"]}
    assert errors == BROKEN | {
        "in/a,b.jpg": "no such file or directory",
        "in/strip.png": "not an image",
        "in/$x^{$.jpg": "is a directory",
    }


def test_paths_that_lead_nowhere(flight, network, capsys):
    os.mkfifo("pipe.jpg")
    for path, says in (("x/" * 2047 + "xx", "ile name too long|no image"), ("n" * 300, "ile name too long|no image"),
                       ("pipe.jpg", "cannot be read as an image"), ("in/broken.jpg", "cannot be read as an image")):  # fmt: skip
        assert inference.main(["--weights", network, "--image", path]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert any(word in last for word in says.split("|")), last
