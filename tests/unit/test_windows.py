"""GeoTIFFs as images that are read by windows: which files, which bands, where there is data, how large a pixel is."""

import sys

import numpy as np
import pytest
from orthomosaics import UTM, write_tiff
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from small_models import wall

from crackcam.data import windows
from crackcam.data.scene import ImageError
from crackcam.data.windows import Windowed, fill, is_orthomosaic, open_orthomosaic, read_or_leave
from crackcam.preprocessing import GREY

IMAGE = wall(60, 90)


def read(path, *window):
    with open_orthomosaic(path) as mosaic:
        return mosaic.read(*(window or (0, 0, mosaic.height, mosaic.width)))


def reason(path):
    with pytest.raises(ImageError) as error:
        read(path)
    return str(error.value)


# -- which files -------------------------------------------------------------------------------------------------------


def test_georeferenced_and_too_large_files_are_orthomosaics(tmp_path, monkeypatch):
    assert is_orthomosaic(write_tiff(tmp_path / "geo.tif", IMAGE))
    assert is_orthomosaic(write_tiff(tmp_path / "big.tif", IMAGE, BIGTIFF="YES"))
    plain = tmp_path / "plain.tif"
    Image.fromarray(IMAGE).save(plain)
    Image.fromarray(IMAGE).save(tmp_path / "plain.png")
    for name in ("plain.tif", "plain.png", "missing.tif", "."):
        assert not is_orthomosaic(tmp_path / name), name
    plain.with_suffix(".tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    assert is_orthomosaic(plain)
    plain.with_suffix(".tfw").unlink()
    (tmp_path / "torn.tif").write_bytes(plain.read_bytes()[:9])
    assert not is_orthomosaic(tmp_path / "torn.tif")
    monkeypatch.setattr(windows, "MAX_PIXELS", 5000)
    assert is_orthomosaic(plain)


def test_without_rasterio(tmp_path, monkeypatch, caplog):
    path = write_tiff(tmp_path / "geo.tif", IMAGE)
    assert read_or_leave(path) == Windowed(path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr(windows, "find_spec", lambda name: None)
    assert "pip install rasterio" in reason(path)
    assert read_or_leave(path, needed=True) == Windowed(path)
    windows._log_plain.cache_clear()
    with caplog.at_level("INFO", "crackcam"):
        assert np.array_equal(read_or_leave(path), IMAGE)
    assert "read as plain ones" in caplog.text


def test_damaged_files_have_a_reason(tmp_path):
    path = write_tiff(tmp_path / "geo.tif", IMAGE, compress="deflate")
    torn = tmp_path / "torn.tif"
    torn.write_bytes(path.read_bytes()[:-200])
    assert "damaged" in reason(torn)
    text = tmp_path / "text.tif"
    text.write_text("no image")
    assert "damaged" in reason(text)


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_a_window_is_that_of_the_image(tmp_path):
    path = write_tiff(tmp_path / "geo.tif", IMAGE, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    assert np.array_equal(read(path), IMAGE)
    assert np.array_equal(read(path, 11, 20, 30, 41), IMAGE[11:41, 20:61])
    with open_orthomosaic(path) as mosaic:
        assert mosaic.reduced(45).shape == (30, 45, 3)


def test_grey_palette_and_more_bands(tmp_path):
    grey = write_tiff(tmp_path / "grey.tif", IMAGE[None, ..., 0])
    assert np.array_equal(read(grey), np.repeat(IMAGE[..., :1], 3, axis=2))
    five = write_tiff(tmp_path / "five.tif", np.stack([IMAGE[..., 0] + band for band in range(5)]))
    assert np.array_equal(read(five)[..., 2], IMAGE[..., 0] + 2)
    import rasterio

    with rasterio.open(five, "r+") as dataset:
        colours = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        dataset.colorinterp = colours
    with open_orthomosaic(five) as mosaic:
        assert (mosaic.bands, mosaic.unused) == ([4, 3, 2], 2)
    indices = (IMAGE[None, ..., 0] > 100).astype(np.uint8)
    palette = write_tiff(tmp_path / "palette.tif", indices, photometric="palette")
    with rasterio.open(palette, "r+") as dataset:
        dataset.write_colormap(1, {0: (10, 20, 30), 1: (200, 210, 220)})
    assert np.array_equal(read(palette), np.where(indices[0, ..., None], [200, 210, 220], [10, 20, 30]))


def test_values_of_16_bits_by_the_rule_of_other_images(tmp_path):
    path = write_tiff(tmp_path / "deep.tif", IMAGE.astype(np.uint16) * 257)
    assert np.array_equal(read(path), IMAGE)
    assert "12-bit" in reason(write_tiff(tmp_path / "narrow.tif", IMAGE.astype(np.uint16) * 16))


def test_heights_are_no_image(tmp_path):
    path = write_tiff(tmp_path / "dem.tif", IMAGE[None, ..., 0].astype(np.float32))
    assert reason(path) == "float32 values, of a height model say, not of an image: save it as 8-bit RGB"


@pytest.mark.parametrize("how", ["alpha", "nodata", "mask"])
def test_areas_without_data_look_like_what_is_around(tmp_path, how):
    valid = np.ones(IMAGE.shape[:2], bool)
    valid[:, 50:] = False
    image = np.where(valid[..., None], IMAGE, np.uint8(0))
    if how == "alpha":
        bands = np.concatenate([image, valid[..., None] * np.uint8(255)], axis=2).transpose(2, 0, 1)
        path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    elif how == "nodata":
        path = write_tiff(tmp_path / "a.tif", image, nodata=0)
    else:
        import rasterio

        path = write_tiff(tmp_path / "a.tif", image)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(valid)
    found = read(path)
    assert np.array_equal(found[:, :50], IMAGE[:, :50])
    assert np.abs(found[:12, 50:].astype(int) - 160).max() < 15  # the wall's grey; not 0
    assert (read(path, 0, 60, 60, 30) == GREY).all()
    with open_orthomosaic(path) as mosaic:
        assert np.array_equal(mosaic.valid(0, 0, 60, 90), valid)
        assert np.array_equal(mosaic.valid(0, 0, 60, 90, 4), valid[::4, ::4][:, :23])
        assert (mosaic.reduced(90)[:, 55:] == 255).all()


def test_gaps_are_filled_smoothly():
    ramp = np.repeat(np.linspace(0, 100, 64, dtype=np.float32)[None, :, None], 64, axis=0).repeat(3, axis=2)
    valid = np.ones((64, 64), bool)
    valid[20:40, 20:44] = False
    filled = fill(ramp, valid)
    assert np.array_equal(filled[valid], ramp[valid])
    assert np.abs(filled - ramp).max() < 15


# -- place -------------------------------------------------------------------------------------------------------------


def scale_of(tmp_path, crs, transform):
    with open_orthomosaic(write_tiff(tmp_path / "geo.tif", IMAGE, transform, crs)) as mosaic:
        scale = mosaic.scale()
        return scale and scale.mm_per_pixel


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32632", UTM, 2.0),
        ("EPSG:2263", Affine(0.01, 0, 980_000, 0, -0.01, 200_000), 3.048006),  # US survey feet
        ('LOCAL_CS["facade",UNIT["metre",1]]', Affine(0.001, 0, 0, 0, -0.001, 20), 1.0),
        (
            "EPSG:3857",
            Affine(0.002, 0, 1_000_000, 0, -0.002, 8_399_738),
            1.00168,
        ),  # 60 degrees north, where it stretches to double
        ("EPSG:4326", Affine(1e-8, 0, 9, 0, -1e-8, 0.1), 1.1094),  # at the equator, where degrees are square
        ("EPSG:4326", Affine(1e-8, 0, 9, 0, -1e-8, 48), None),  # pixels are not square
        (None, Affine(0.002, 0, 0, 0, -0.002, 0), None),
        ("EPSG:32632", Affine(2000, 0, 500_000, 0, -2000, 5_400_000), None),  # kilometres: no cracks
    ],
)
def test_millimetres_of_a_pixel(tmp_path, crs, transform, expected):
    found = scale_of(tmp_path, crs, transform)
    assert found == (expected and pytest.approx(expected, rel=1e-3))


def test_coordinates_of_a_rotated_file(tmp_path):
    with open_orthomosaic(write_tiff(tmp_path / "geo.tif", IMAGE)) as mosaic:
        (corner, point) = mosaic.coordinates([0, 0, 100, 50])
        assert corner == (500_000, 5_400_000)
        assert point == pytest.approx((500_000 + 0.2 * 0.75**0.5 + 0.1 / 2, 5_400_000 + 0.2 / 2 - 0.1 * 0.75**0.5))
        ((east, north),) = mosaic.longitudes_latitudes([corner])
        assert (east, north) == pytest.approx((9.0, 48.7529), abs=1e-3)
