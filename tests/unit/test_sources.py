"""Images from files, globs, folders, Pillow images, arrays, and iterables of them."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crackcam.data import sources
from crackcam.data.images import UnreadableImage
from crackcam.data.sources import SourceImage, find_files, is_single, map_source, read_source
from crackcam.errors import UserError


def array(value=0, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/ with 1.png, 2.png, 10.png and notes.txt: the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in (1, 2, 10):
        Image.fromarray(array(number)).save(f"photos/{number}.png")
    Path("photos/notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "single"),
    [
        ("photos/1.png", True), (Path("photos/1.png"), True), ("nowhere.png", True), (array(), True),
        (Image.new("L", (3, 3)), True), ("photos", False), ("photos/*.png", False), ("nowhere/*.png", False),
        (array()[None], False), ([array()], False), ((), False), (iter([]), False), (["photos/1.png"], False),
    ],
)  # fmt: skip
def test_one_image_or_several(photos, source, single):
    assert is_single(source) is single


def test_a_file_whose_name_looks_like_a_glob(photos):
    Path("photos/1.png").rename("photos/wall[1].png")
    assert is_single("photos/wall[1].png")
    assert find_files(Path("photos/wall[1].png")) == [Path("photos/wall[1].png")]


def test_files_of_a_path(photos):
    assert [path.name for path in find_files(Path("photos"))] == ["1.png", "2.png", "10.png", "notes.txt"]
    assert [path.name for path in find_files(photos / "photos" / "?.png")] == ["1.png", "2.png"]
    assert [path.name for path in find_files(Path("**/*.png"))] == ["1.png", "10.png", "2.png"]
    assert len(find_files(Path("pho*"))) == 4  # a folder that matches gives its files
    Path("empty").mkdir()
    for name, message in (("nowhere.png", "no image nowhere.png"), ("x*", "no image x*"), ("empty", "no files in")):
        with pytest.raises(UserError) as caught:
            find_files(Path(name))
        assert message in str(caught.value)


def test_a_folder_is_read_in_order_with_what_is_no_image(photos):
    found = list(read_source("photos"))
    assert [item.path.name for item in found] == ["1.png", "2.png", "10.png", "notes.txt"]
    assert [int(item.pixels[0, 0, 0]) for item in found[:3]] == [1, 2, 10]
    assert found[3] == UnreadableImage(Path("photos/notes.txt"), "not an image")


def test_pixels_have_no_path(photos):
    grey = Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8))
    for source in (grey, np.asarray(grey.convert("RGB"))):
        (found,) = read_source(source)
        assert found.path is None
        assert found.pixels.dtype == np.uint8
        assert found.pixels[..., 1].tolist() == [[0, 100], [200, 255]]


def test_pillow_images_are_turned_upright_and_blended_with_white():
    image = Image.fromarray(array(50, height=4, width=6))
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees
    (found,) = read_source(image)
    assert found.pixels.shape == (6, 4, 3)
    (found,) = read_source(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))
    assert (found.pixels == 255).all()


def test_a_batch_of_arrays_and_nested_iterables(photos):
    stacked = np.stack([array(1), array(2)])
    assert [int(item.pixels[0, 0, 0]) for item in read_source(stacked)] == [1, 2]
    mixed = (source for source in ["photos/10.png", [array(7), "photos/?.png"], Image.fromarray(array(8))])
    assert [int(item.pixels[0, 0, 0]) for item in read_source(mixed)] == [10, 7, 1, 2, 8]


def test_a_list_of_paths_is_checked_before_it_is_read(photos):
    with pytest.raises(UserError, match=r"no image nowhere\.png"):
        next(read_source(["photos/1.png", "nowhere.png"]))
    assert [item.path.name for item in read_source(["photos/2.png", Path("photos/1.png")])] == ["2.png", "1.png"]


def test_an_endless_generator_is_read_as_far_as_needed():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield array(number % 256)

    found = list(itertools.islice(read_source(endless()), 5))
    assert all(isinstance(item, SourceImage) for item in found)
    assert taken == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 6, 3), np.float32), "not (4, 6, 3) of float32"),
        (np.zeros((4, 6), np.uint8), "not (4, 6) of uint8"),
        (np.zeros((4, 6, 4), np.uint8), "not (4, 6, 4) of uint8"),
        (np.zeros((0, 6, 3), np.uint8), "not (0, 6, 3) of uint8"),
        (np.zeros((2, 3, 4, 6), np.uint8), "not (3, 4, 6) of uint8"),
        (7, "int is not an image: pass a path, a Pillow image or an array (H, W, 3) of uint8"),
        (None, "NoneType is not an image"),
        ([array(), 7], "int is not an image"),
        (b"photos", "int is not an image"),
    ],
)
def test_what_is_no_image(source, message):
    with pytest.raises(UserError) as caught:
        list(read_source(source))
    assert message in str(caught.value)


# -- what is left out, and what is too small -----------------------------------------------------------------------------


@pytest.fixture
def with_masks(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    monkeypatch.chdir(tmp_path)
    for path in ("data/a/1.png", "data/a/2.png", "data/masks/1.png", "data/site/Mask/3.png", "data/masked/4.png"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array(9, 20, 20)).save(path)


def test_folders_of_masks_are_left_out(with_masks, caplog):
    assert [str(item.path) for item in read_source("data")] == ["data/a/1.png", "data/a/2.png", "data/masked/4.png"]
    assert caplog.messages == ["left out data/masks, data/site/Mask: masks, no images; name such a folder to use it"]


@pytest.mark.parametrize(
    ("source", "number"), [("data/masks", 1), ("data/site", 1), ("data/masks/*.png", 1), ("data/a", 2)]
)
def test_masks_that_are_named_are_used(with_masks, caplog, source, number):
    assert len(list(read_source(source))) == number
    assert not caplog.messages


def test_images_of_a_few_pixels_are_warned_of(tmp_path, caplog):
    work = lambda images: iter([len(images)])  # noqa: E731
    for shape, warned in (((1, 1), True), ((3, 90), True), ((90, 3), True), ((4, 4), False)):
        caplog.clear()
        map_source(array(5, *shape), work, 4)
        list(map_source([array(5, *shape)], work, 4))
        expected = f"an image has {shape[1]} x {shape[0]} pixels: too few to see anything, so its result means nothing"
        assert caplog.messages == [expected] * (2 * warned)


def test_brackets_in_folders_that_exist_are_part_of_their_names(tmp_path):
    folder = tmp_path / "[2024] walls" / "a"
    folder.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    for pattern in ("a/*.png", "*/*.png", "**/[12].png"):
        assert find_files(tmp_path / "[2024] walls" / pattern) == [folder / "1.png", folder / "2.png"]


def test_a_batch_of_large_images_is_smaller(monkeypatch):
    monkeypatch.setattr(sources, "BATCH_BYTES", 2000)
    arrays, seen = [np.zeros((20, 20, 3), np.uint8)] * 7, []

    def work(batch):
        seen.append(len(batch))
        yield from batch

    assert len(list(sources.map_source(arrays, work, 5))) == 7
    assert seen == [2, 2, 2, 1]
