"""Captures: when, where and with which lens a photograph was taken; the scale that follows; damaged metadata."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from crackcam.config import SizesConfig
from crackcam.data.capture import Capture, read_capture
from crackcam.errors import UserError
from crackcam.sizes import Scale

PLACE = {
    GPS.GPSLatitudeRef: "S", GPS.GPSLatitude: (33.0, 51.0, 24.5),
    GPS.GPSLongitudeRef: "W", GPS.GPSLongitude: (70.0, 39.0, 0.0),
    GPS.GPSAltitudeRef: b"\x01", GPS.GPSAltitude: 12.5,
}  # fmt: skip
CAMERA = {
    Base.DateTimeOriginal: "2026:05:01 10:11:12", Base.FocalLength: 12.29, Base.FocalLengthIn35mmFilm: 24,
    Base.MakerNote: b"x" * 50,
}  # fmt: skip
FLIGHT = SizesConfig(distance=5, sensor_width=17.3)


def photograph(path, camera=(), place=(), size=(40, 30), **top):
    """A JPEG file with these tags."""
    exif = Image.Exif()
    for name, value in top.items():
        exif[Base[name]] = value
    exif.get_ifd(IFD.Exif).update(dict(camera))
    exif.get_ifd(IFD.GPSInfo).update(dict(place))
    Image.fromarray(np.full((*size[::-1], 3), 120, np.uint8)).save(path, exif=exif)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.jpg"


def test_a_photograph_south_west_and_below_the_sea(file):
    it = read_capture(photograph(file, CAMERA, PLACE))
    assert it.time == datetime(2026, 5, 1, 10, 11, 12)
    assert it.latitude == pytest.approx(-(33 + 51 / 60 + 24.5 / 3600), abs=1e-8)
    assert it.longitude == pytest.approx(-70.65, abs=1e-8)
    assert it.altitude == -12.5
    assert it.focal_length_mm == pytest.approx(12.29)
    assert (it.focal_length_35mm, it.size) == (24, (40, 30))
    assert it.to_dict() == {
        "time": "2026-05-01T10:11:12", "latitude": it.latitude, "longitude": it.longitude, "altitude": -12.5,
        "focal_length_mm": it.focal_length_mm, "focal_length_35mm": 24,
    }  # fmt: skip


def test_north_east_above_the_sea(file):
    north = {**PLACE, GPS.GPSLatitudeRef: "N", GPS.GPSLongitudeRef: "E", GPS.GPSAltitudeRef: b"\x00"}
    it = read_capture(photograph(file, (), north))
    assert (it.latitude > 33.8, it.longitude, it.altitude) == (True, pytest.approx(70.65), 12.5)
    assert (it.time, it.focal_length_mm) == (None, None)
    without_reference = {GPS.GPSAltitude: 7.0}
    assert read_capture(photograph(file, (), without_reference)).altitude == 7


@pytest.mark.parametrize(("offset", "hours"), [("+02:00", 2), ("-09:30", -9.5), ("Z", 0)])
def test_the_offset_of_the_time(file, offset, hours):
    it = read_capture(photograph(file, {**CAMERA, Base.OffsetTimeOriginal: offset}))
    assert it.time == datetime(2026, 5, 1, 10, 11, 12, tzinfo=timezone(timedelta(hours=hours)))
    assert it.to_dict()["time"].startswith("2026-05-01T10:11:12")


def test_the_time_where_the_original_one_is_missing(file):
    digitized = {Base.DateTimeDigitized: "2025:01:02 03:04:05"}
    changed = "2026:06:07 08:09:10"
    assert read_capture(photograph(file, digitized, DateTime=changed)).time == datetime(2025, 1, 2, 3, 4, 5)
    assert read_capture(photograph(file, DateTime=changed)).time == datetime(2026, 6, 7, 8, 9, 10)


def test_no_metadata(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / name)
        assert read_capture(tmp_path / name) == Capture(size=(40, 30))
    (tmp_path / "text.jpg").write_text("no image")
    assert read_capture(tmp_path / "text.jpg") == read_capture(tmp_path / "missing.jpg") == Capture()


@pytest.mark.parametrize(
    ("camera", "place"),
    [
        ({Base.FocalLength: IFDRational(0, 0)}, {**PLACE, GPS.GPSLatitude: (IFDRational(0, 0),) * 3}),
        ({Base.FocalLength: 0.0, Base.DateTimeOriginal: "0000:00:00 00:00:00"}, {**PLACE, GPS.GPSLatitude: (95.0, 0.0, 0.0)}),
        ({Base.DateTimeOriginal: "yesterday"}, {**PLACE, GPS.GPSLatitudeRef: "X"}),
        ({Base.DateTimeOriginal: "2026:13:01 10:11:12"}, {name: PLACE[name] for name in (GPS.GPSLatitude, GPS.GPSLongitude)}),
        ({}, {**PLACE, GPS.GPSLatitude: (0.0, 0.0, 0.0), GPS.GPSLongitude: (0.0, 0.0, 0.0)}),
        ({}, {**PLACE, GPS.GPSLongitude: (181.0, 0.0, 0.0)}),
    ],
    ids=["zero by zero", "zeros", "words", "no hemisphere", "receiver without position", "beyond 180"],
)  # fmt: skip
def test_damaged_values_are_left_out(file, camera, place):
    it = read_capture(photograph(file, camera, place))
    assert (it.time, it.focal_length_mm, it.latitude, it.longitude) == (None, None, None, None)
    assert it.altitude == -12.5 or GPS.GPSAltitude not in place


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_never_raise(file):
    """Every byte of the metadata changed, one after the other; and the file cut at every length."""
    whole = photograph(file, CAMERA, PLACE).read_bytes()
    end = whole.index(b"\xff\xdb")
    rng = np.random.default_rng(0)
    for place in range(2, end):
        broken = bytearray(whole)
        broken[place] = int(rng.integers(256))
        file.write_bytes(bytes(broken))
        assert isinstance(read_capture(file), Capture)
    for length in range(0, end, 7):
        file.write_bytes(whole[:length])
        assert isinstance(read_capture(file), Capture)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_metadata_of_an_upright_image(file, tmp_path, orientation):
    it = read_capture(photograph(file, CAMERA, PLACE, Orientation=orientation, Make="Seed"))
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "b.jpg", exif=it.exif)
    again = read_capture(tmp_path / "b.jpg")
    assert (again.time, again.latitude, again.longitude, again.altitude) == (it.time, it.latitude, it.longitude, -12.5)
    with Image.open(tmp_path / "b.jpg") as image:
        exif = image.getexif()
        assert exif.get(Base.Orientation, 1) == 1
        assert exif[Base.Make] == "Seed"


def test_metadata_that_are_too_long_lose_the_makers_notes(tmp_path):
    """A TIFF file holds more than a JPEG file can."""
    exif = Image.Exif()
    exif[Base.Make] = "Seed"
    exif.get_ifd(IFD.Exif).update({**CAMERA, Base.MakerNote: b"x" * 70_000})
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.webp", exif=exif)
    it = read_capture(tmp_path / "a.webp")
    assert 0 < len(it.exif) < 1000
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "b.jpg", exif=it.exif)
    assert read_capture(tmp_path / "b.jpg").time == it.time == datetime(2026, 5, 1, 10, 11, 12)


# -- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
def test_the_ground_sampling_distance(file, size, orientation):
    """5 m, 17.3 mm along 400 px, 12.29 mm: 5000 * 17.3 / 12.29 / 400, however the camera was held."""
    it = read_capture(photograph(file, CAMERA, size=size, Orientation=orientation))
    assert it.scale(FLIGHT).mm_per_pixel == pytest.approx(5000 * 17.3 / 12.29 / 400)


def test_where_a_scale_comes_from(file):
    it = read_capture(photograph(file, CAMERA))
    assert it.scale(SizesConfig(mm_per_pixel=0.2)) == Scale(0.2)
    assert it.scale(SizesConfig()) is None
    assert it.scale(SizesConfig(distance=5, sensor_width=36)).mm_per_pixel == pytest.approx(5000 * 36 / 24 / 40)
    zoomed = read_capture(photograph(file, {**CAMERA, Base.DigitalZoomRatio: 2.0}))
    assert zoomed.scale(FLIGHT).mm_per_pixel == pytest.approx(it.scale(FLIGHT).mm_per_pixel / 2)
    equivalent = read_capture(photograph(file, {Base.FocalLengthIn35mmFilm: 24}))
    assert equivalent.scale(FLIGHT) is None  # 24 mm are no focal length of a lens before a sensor of 17.3 mm
    assert equivalent.scale(SizesConfig(distance=5, sensor_width=36)).mm_per_pixel == pytest.approx(187.5)
    assert read_capture(photograph(file)).scale(FLIGHT) is None
    assert read_capture(photograph(file)).scale(SizesConfig(mm_per_pixel=0.2)) == Scale(0.2)
    with pytest.raises(UserError, match="mm_per_pixel: 175956 is not between 0.0001 and 1000: check its unit"):
        it.scale(SizesConfig(distance=5000, sensor_width=17.3))
