"""Verdicts of a person: names of images, the file, matching with regions, tiles for training."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crackcam.data.names import HandoverNames, match_names
from crackcam.data.pixels import PixelSplit, concatenate
from crackcam.data.verdict_tiles import VerdictTiles, cut_windows
from crackcam.data.verdicts import Verdict, VerdictFile, judge, read_verdicts
from crackcam.errors import UserError
from crackcam.preprocessing import Preprocessing

HEAD = "image,region,x,y,width,height,verdict\n"


def verdict_file(tmp_path, text):
    path = tmp_path / "verdicts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# -- names -----------------------------------------------------------------------------------------------------------


def test_names_show_no_folder_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("home/me/may/a.jpg"), tmp_path / "home/me/may/north/=b.jpg", Path("home/me/./may/@c/d.jpg")]
    names = HandoverNames.of(paths)
    assert [names.name(path) for path in paths] == ["a.jpg", "north/=b.jpg", "./@c/d.jpg"]
    alone = HandoverNames.of([tmp_path / "secret/a\n\udce9.jpg"])
    assert alone.name(tmp_path / "secret/a\n\udce9.jpg") == r"a\n\udce9.jpg"


def test_names_of_another_selection_of_the_same_images():
    known = ["north/a.jpg", "south/a.jpg", "north/b.jpg", "c.jpg", "./=d.jpg"]
    wanted = ["a.jpg", "north/a.jpg", "may/north/b.jpg", "may/c.jpg", "xb.jpg", "=d.jpg", "e.jpg"]
    assert match_names(wanted, known) == {
        "north/a.jpg": "north/a.jpg",
        "may/north/b.jpg": "north/b.jpg",
        "may/c.jpg": "c.jpg",
        "=d.jpg": "./=d.jpg",
    }
    assert match_names(["Bru\u0308cke.jpg"], ["Br\u00fccke.jpg"]) == {"Bru\u0308cke.jpg": "Br\u00fccke.jpg"}


# -- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_file_as_spreadsheets_write_it(tmp_path, separator):
    """With a byte order mark, other columns, other capitals, whole numbers as decimals, and lines that say nothing."""
    lines = [
        "class,verdict,image,x,y,width,height",
        "Positive,Reject,a.jpg,1,2,3.0,4",
        "Positive,,a.jpg,,,,",
        ",,,,,,",
        "Positive,accepted,north/b.jpg,0,0,5,6",
    ]
    text = "\r\n".join(lines).replace(",", separator)
    found = read_verdicts(verdict_file(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert found.verdicts == [
        Verdict("a.jpg", (1, 2, 3, 4), "reject"),
        Verdict("north/b.jpg", (0, 0, 5, 6), "accept"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column image"),
        ("image,x,y,width,height\n", "line 1: no column verdict"),
        (HEAD + "a.jpg,1,1,2,3,4,accept\na.jpg,2,1,2,3,4,maybe\n", "line 3: verdict is 'maybe', not accept or reject"),
        (HEAD + "a.jpg,1,1,2,wide,4,accept\n", "line 2: width is 'wide', not a number of pixels"),
        (HEAD + "a.jpg,1,-1,2,3,4,accept\n", "line 2: x is '-1', not a number of pixels"),
        (HEAD + "a.jpg,1,1.5,2,3,4,accept\n", "line 2: x is '1.5'"),
        (HEAD + "a.jpg,1,1,nan,3,4,accept\n", "line 2: y is 'nan'"),
        (HEAD + "a.jpg,1,1,2,3,0,accept\n", "line 2: a box of 3 x 0 pixels"),
        (HEAD + ",1,1,2,3,4,accept\n", "line 2: no name of an image"),
        (HEAD + '"a.jpg\n\n",1,1,2,3,4,no\n', "line 4: verdict is 'no'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: no column image"),
        (HEAD + "x" * 200_000 + ",1,1,2,3,4,accept\n", "line 2: field larger than field limit"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, message):
    path = verdict_file(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_verdicts(path)
    assert str(error.value).startswith(f"{path}, {message}")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none.csv: no such file"):
        read_verdicts(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_verdicts(tmp_path)


# -- matching --------------------------------------------------------------------------------------------------------


def test_regions_are_matched_by_overlap_and_not_by_number():
    verdicts = [
        Verdict("a.jpg", (0, 0, 10, 10), "reject"),
        Verdict("a.jpg", (100, 0, 10, 10), "accept"),
        Verdict("a.jpg", (100, 0, 10, 10), "reject"),  # the same again: the later counts
        Verdict("a.jpg", (300, 300, 9, 9), "reject"),  # of a region that is gone
    ]
    boxes = [(100, 0, 10, 12), (0, 0, 10, 20), (0, 5, 10, 10), (40, 40, 9, 9)]
    # overlaps with the first verdict: 0.5 of the second box, 5 / 15 of the third
    assert judge(boxes, verdicts) == ["reject", "reject", None, None]
    assert judge([(0, 0, 10, 21)], verdicts) == [None]
    assert judge([], verdicts) == []
    assert judge(boxes, []) == [None] * 4


def test_a_verdict_as_a_line_of_the_next_file(tmp_path):
    (found,) = read_verdicts(verdict_file(tmp_path, HEAD + "a.jpg,7,1,2,3,4,reject\n")).verdicts
    line = {"image": "north/a.jpg", "region": "7", "x": 1, "y": 2, "width": 3, "height": 4, "verdict": "reject"}
    assert replace(found, image="north/a.jpg").to_dict() == line
    assert ",".join(line) + "\n" == HEAD


def test_a_digest_tells_decisions_apart(tmp_path):
    one = VerdictFile(Path("a.csv"), [Verdict("a.jpg", (0, 0, 10, 10), "reject")])
    same = VerdictFile(Path("b.csv"), [Verdict("a.jpg", (0, 0, 10, 10), "reject")])
    other = VerdictFile(Path("a.csv"), [Verdict("a.jpg", (0, 0, 10, 10), "accept")])
    assert one.digest == same.digest != other.digest


# -- tiles -----------------------------------------------------------------------------------------------------------


def test_tiles_lie_inside_the_image_and_span_the_shorter_side_of_a_region():
    assert cut_windows((0, 0, 8, 4), (300, 300), 64) == [(slice(0, 64), slice(0, 64))]
    assert cut_windows((290, 295, 10, 5), (300, 300), 64) == [(slice(236, 300), slice(236, 300))]
    long = cut_windows((10, 100, 20, 200), (400, 500), 64)
    assert [rows for rows, _ in long] == [slice(100, 164), slice(145, 209), slice(190, 254), slice(236, 300)]
    assert {(columns.start, columns.stop) for _, columns in long} == {(0, 64)}
    wide = cut_windows((10, 100, 150, 100), (400, 500), 64)  # reduced: 100 pixels high
    assert wide == [(slice(100, 200), slice(10, 110)), (slice(100, 200), slice(60, 160))]
    assert cut_windows((0, 0, 300, 193), (400, 500), 64) == []
    assert len(cut_windows((0, 0, 5000, 4), (100, 5000), 64)) == 8
    assert cut_windows((5, 5, 20, 4), (40, 50), 64) == [(slice(0, 40), slice(0, 50))]  # a small image as a whole


@pytest.fixture
def photographs(tmp_path):
    """Two photographs whose pixels tell their places: red is x / 4, green is y / 4."""
    y, x = np.mgrid[:200, :400]
    pixels = np.stack([x // 4, y // 4, np.zeros_like(x)], axis=2).astype(np.uint8)
    for name in ("north/a.png", "south/b.png"):
        (tmp_path / "flight" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "flight" / name)
    return tmp_path / "flight"


def test_tiles_are_cut_at_native_resolution(photographs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = HEAD + "\n".join(
        [
            "north/a.png,1,100,40,20,10,accept",
            "north/a.png,2,300,100,20,10,reject",
            "north/a.png,3,118,52,10,10,reject",  # its tile would show the accepted one
            "b.png,1,390,190,20,10,accept",  # not inside the image
            "c.png,1,3,1,2,1,reject",
        ]
    )
    file = read_verdicts(verdict_file(tmp_path, text))
    tiles = VerdictTiles.plan(file, photographs, ["sound", "broken"])
    split = tiles.read(Preprocessing(size=32), ["sound", "broken"])
    assert split.pixels.shape == (2, 3, 32, 32)
    assert split.labels.tolist() == [1, 0]
    assert split.paths == [photographs / "north/a.png"] * 2
    assert split.pixels[0, :2, 0, 0].tolist() == [(110 - 16) // 4, (45 - 16) // 4]
    assert split.pixels[1, :2, -1, -1].tolist() == [(310 + 15) // 4, (105 + 15) // 4]
    assert tiles.counts == {"broken": 1, "sound": 1}
    for message in (
        "1 verdict in",
        "1 verdict left out: rejected regions close to accepted ones",
        "1 verdict left out: their boxes are not inside the images of that name",
        "verdicts: 1 tile of broken and 1 tile of sound from 1 image, in the training split",
    ):
        assert message in caplog.text
    train = PixelSplit(
        torch.zeros((3, 3, 32, 32), dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), [Path("x")] * 3
    )
    whole = concatenate(train, split)
    assert (len(whole), whole.labels.tolist(), whole.paths[3:]) == (5, [0, 0, 0, 1, 0], split.paths)
    assert torch.equal(whole.pixels[3:], split.pixels)


def test_images_of_other_splits_give_no_tiles(photographs, tmp_path, caplog):
    file = read_verdicts(verdict_file(tmp_path, HEAD + "a.png,1,9,9,9,9,accept\nb.png,1,9,9,9,9,reject\n"))
    (tmp_path / "val").symlink_to(photographs / "south")
    tiles = VerdictTiles.plan(file, photographs, ["Negative", "Positive"], [tmp_path / "val/b.png"])
    assert list(tiles.images) == [photographs / "north/a.png"]
    assert "1 verdict left out: about images of the validation or test split" in caplog.text


def test_verdicts_that_no_training_can_use(photographs, tmp_path):
    file = read_verdicts(verdict_file(tmp_path, HEAD + "other.png,1,9,9,9,9,accept\n"))
    with pytest.raises(UserError, match="has none of the images of .*: other.png say"):
        VerdictTiles.plan(file, photographs, ["Negative", "Positive"])
    for classes in (["cat", "dog"], ["crack", "none", "spall"]):
        with pytest.raises(UserError, match=f"verdicts needs two classes.*these are {', '.join(classes)}"):
            VerdictTiles.plan(file, photographs, classes)
    with pytest.raises(UserError, match="no image .*missing"):
        VerdictTiles.plan(file, photographs / "missing", ["Negative", "Positive"])
