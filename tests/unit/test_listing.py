"""The files of a folder: links are followed, loops end, and results of crackcam are left out."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from crackcam.data.listing import list_files
from crackcam.data.sources import find_files


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, "PNG")


def names(folder):
    return [path.relative_to(folder).as_posix() for path in list_files(folder)]


def test_linked_folders_are_followed(tmp_path):
    for number in range(20):
        photo(tmp_path / "site1" / "deeper" / f"{number}.png")
    photo(tmp_path / "class" / "own.png")
    (tmp_path / "class" / "s1").symlink_to("../site1")
    (tmp_path / "class" / "one.png").symlink_to("../site1/deeper/3.png")
    assert names(tmp_path / "class") == ["one.png", "own.png", *(f"s1/deeper/{number}.png" for number in range(20))]


def test_loops_end_and_no_folder_is_read_twice(tmp_path, caplog):
    photo(tmp_path / "a" / "b" / "1.png")
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "a" / "a0").symlink_to("b")
    (tmp_path / "self").symlink_to("self")
    assert names(tmp_path) == ["a/b/1.png", "self"]
    assert sorted(caplog.messages) == [
        f"{tmp_path}/a/a0 links to a folder that is read already: left out",
        f"{tmp_path}/a/b/up links to a folder that is read already: left out",
    ]


def test_two_links_to_each_other(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        photo(tmp_path / one / f"{one}.png")
        (tmp_path / one / "other").symlink_to(f"../{other}")
    assert names(tmp_path / "a") == ["a.png", "other/b.png"]


def result(folder, stem, *files):
    """As inference.py and xai.py write it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"schema": 1, "command": "xai.py", "pictures": []}
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=2) + "\n")
    for name in files:
        photo(folder / name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_results_beside_images_are_left_out(tmp_path, caplog, suffix):
    caplog.set_level(logging.INFO, "crackcam")
    photo(tmp_path / "1.png")
    photo(tmp_path / "x" / "00000" / "photo.jpg")  # not named as an overlay
    photo(tmp_path / "x.jpg")
    photo(tmp_path / "maps.png")
    expected = ["1.png", "maps.png", "x.jpg", "x/00000/photo.jpg"]
    assert names(tmp_path) == expected
    (tmp_path / f"x{suffix}.part").mkdir()
    (tmp_path / f"x{suffix}.part" / "run.json").write_text("{}")
    photo(tmp_path / "x" / "00000" / "0000000_1.jpg")
    photo(tmp_path / "maps" / "00000" / "0000000_1.npy")
    assert names(tmp_path) == expected  # interrupted
    result(tmp_path, "x", f"x{suffix}", "x_found.csv", "x.png")
    (tmp_path / "report.html").write_text('<!doctype html>\n<meta name="generator" content="crackcam">\n')
    assert names(tmp_path) == expected
    assert caplog.messages[-1] == "left out 8 files that crackcam wrote"


def test_annotations_beside_images_hide_no_image(tmp_path):
    for name in ("a.png", "0000001_b.jpg", "00000/0000001_c.jpg"):
        photo(tmp_path / name)
    (tmp_path / "a.json").write_text('{"version": "5.0", "shapes": []}')
    assert names(tmp_path) == ["00000/0000001_c.jpg", "0000001_b.jpg", "a.json", "a.png"]


def test_results_that_are_named_are_taken_and_globs_leave_them_out(tmp_path):
    result(tmp_path, "x", "x.png", "x/00000/0000000_1.jpg")
    photo(tmp_path / "1.png")
    assert find_files(tmp_path / "x.png") == [tmp_path / "x.png"]
    assert find_files(tmp_path / "**" / "*.[pj][np]g") == [tmp_path / "1.png"]


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = [Path("00000/0000001_a.jpg"), Path("a/1.png")]
    for path in expected:
        photo(path)
    assert list_files(Path()) == expected
