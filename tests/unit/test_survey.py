"""Regions of an image that is read strip by strip: those of the image in one piece, at their true coordinates."""

import json
import math

import numpy as np
import pytest
import shapely
import torch
from orthomosaics import cracked_wall, footprint, write_tiff
from PIL import Image
from rasterio.transform import Affine
from small_models import dark_lines, wall

from crackcam.batch import mosaic_regions, orthomosaics
from crackcam.batch.orthomosaics import Survey, predict_orthomosaic
from crackcam.config import ExplainConfig, SizesConfig
from crackcam.data.scene import ImageError
from crackcam.data.windows import open_orthomosaic
from crackcam.errors import UserError
from crackcam.explain.explainer import Explainer
from crackcam.models import tiles
from crackcam.models.evidence_maps import EvidenceFile, masked_strips, pooled_probabilities
from crackcam.models.tile_layout import Layout
from crackcam.models.tiles import evidence_strips, map_stride, read_evidence, tiled_probabilities

pytestmark = pytest.mark.slow

NETWORK = dark_lines(tiled_area={"offset": -0.3, "log_temperature": 0.1})
IMAGE = cracked_wall()


def survey(folder, path, sizes=None, resume=False, network=NETWORK, **config):
    (explainer,) = Explainer.of(network, ExplainConfig(**{"threshold": 0.5, "style": "mask", **config}))
    how = Survey(explainer, 1, sizes or SizesConfig())
    return how.work(path, folder / "o.png", folder / "state", resume)


def shapes(path):
    document = json.loads(path.read_text())
    return [(shapely.geometry.shape(each["geometry"]), each["properties"]) for each in document["features"]]


# -- evidence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(160, 200), (151, 111), (64, 300), (20, 90)])
def test_strips_behind_the_known_ones_are_the_same(size):
    image = IMAGE[: size[0], : size[1]]

    def read(top, left, height, width):
        return image[top : top + height, left : left + width]

    whole = list(evidence_strips(NETWORK, read, *image.shape[:2]))
    assert [strip.shape[1] for strip in whole] == Layout.of(*image.shape[:2], 32).strip_rows(map_stride(NETWORK))
    for first in range(1, len(whole) + 1):
        later = list(evidence_strips(NETWORK, read, *image.shape[:2], first=first))
        assert len(later) == len(whole) - first
        assert all(torch.equal(one, other) for one, other in zip(later, whole[first:], strict=True))


def test_the_decision_of_strips_is_that_of_the_map(tmp_path):
    evidence = read_evidence(NETWORK, IMAGE)
    found = pooled_probabilities(NETWORK, evidence.map.split(7, dim=1))
    assert torch.allclose(found, tiled_probabilities(NETWORK, evidence), atol=1e-6)
    prediction = predict_orthomosaic(NETWORK, write_tiff(tmp_path / "a.tif", IMAGE))
    assert (prediction.label, prediction.tiles) == ("Positive", evidence.tiles)
    assert prediction.probabilities["Positive"] == pytest.approx(found[1].item(), abs=1e-6)


def test_areas_without_data_do_not_count(tmp_path):
    valid = footprint()
    image = np.where(valid[..., None], wall(cracked=False), np.uint8(0))
    image[40:43, :120] = 200  # a stripe where there is no data
    bands = np.concatenate([image, valid[..., None] * np.uint8(255)], axis=2).transpose(2, 0, 1)
    path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    prediction, row = survey(tmp_path, path)
    assert (prediction.label, row["regions"]) == ("Negative", [])
    with open_orthomosaic(path) as mosaic:
        (strip, *others) = masked_strips(NETWORK, mosaic)
        assert (strip[:, :8, :40] == -math.inf).all()
        counted = sum((part[0] > -math.inf).sum() for part in (strip, *others))
    assert counted == valid.sum() / 16
    assert survey(tmp_path, write_tiff(tmp_path / "plain.tif", image))[1]["regions"] != []
    with pytest.raises(ImageError, match="no pixel has data"):
        survey(tmp_path, write_tiff(tmp_path / "none.tif", 0 * image, nodata=0))
    assert not (tmp_path / "state").exists()


def test_empty_tiles_are_not_computed(tmp_path, monkeypatch):
    image = np.where(footprint()[..., None], IMAGE, np.uint8(0))
    computed, real = [], tiles._evidence_of
    monkeypatch.setattr(tiles, "_evidence_of", lambda network, some: computed.append(len(some)) or real(network, some))
    _, row = survey(tmp_path, write_tiff(tmp_path / "a.tif", image, nodata=0))
    layout = Layout.of(320, 320, 32)
    ends = [
        (row + layout.rows.tile, column + layout.columns.tile)
        for row in layout.rows.starts
        for column in layout.columns.starts
    ]
    empty = sum(bottom <= 80 and right <= 160 for bottom, right in ends)
    assert empty > 0
    assert sum(computed) == layout.tiles - empty
    assert len(row["regions"]) == 2


# -- regions -----------------------------------------------------------------------------------------------------------


def test_regions_are_those_of_the_image_in_one_piece(tmp_path, monkeypatch):
    found = NETWORK.explain(IMAGE, target="Positive", threshold=0.5)
    expected = [region.to_dict() for region in found.regions()]
    assert len(expected) == 2  # the long cracks meet
    monkeypatch.setattr(mosaic_regions, "find_components", lambda mask, rows: COMPONENTS(mask, rows, 5))
    prediction, row = survey(tmp_path, write_tiff(tmp_path / "a.tif", IMAGE, crs=None))
    assert row["regions"] == expected
    assert row["max"] == pytest.approx(found.peak())
    assert row["mm_per_pixel"] is None
    assert prediction.probabilities == pytest.approx(found.prediction.probabilities, abs=1e-6)


COMPONENTS = mosaic_regions.find_components


@pytest.mark.parametrize("stride", [2, 8])
def test_networks_of_another_output_stride(tmp_path, stride):
    network = dark_lines(stride=stride)
    assert map_stride(network) == stride
    image = IMAGE[:312, :296]
    found = network.explain(image, target="Positive", threshold=0.5)
    prediction, row = survey(tmp_path, write_tiff(tmp_path / "a.tif", image, crs=None), network=network)
    assert row["regions"] == [region.to_dict() for region in found.regions()]
    assert len(row["regions"]) == 2
    assert prediction.probabilities == pytest.approx(found.prediction.probabilities, abs=1e-6)


def test_a_region_that_is_too_large_is_outlined_on_the_map(tmp_path, monkeypatch, caplog):
    path = write_tiff(tmp_path / "a.tif", IMAGE)
    (largest, _) = survey(tmp_path, path)[1]["regions"]
    for coarse in (10**9, 2000):
        monkeypatch.setattr(mosaic_regions, "LARGEST", 20_000)
        monkeypatch.setattr(mosaic_regions, "COARSE", coarse)
        (outlined, small) = survey(tmp_path, path)[1]["regions"]
        assert outlined["crack"] is None
        assert small["crack"]["measured"] > 10
        assert np.abs(np.subtract(outlined["box"], largest["box"])).max() <= 12
        assert 1 < outlined["area"] / largest["area"] < 4
        assert outlined["length"] == pytest.approx(largest["length"], rel=0.1)
    assert "outlines without widths of 1 region, too large to be measured" in caplog.text


# -- polygons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", 'LOCAL_CS["facade",UNIT["metre",1]]', None])
def test_polygons_lie_where_the_cracks_are(tmp_path, crs):
    degrees = Affine(1e-8, 0, 9, 0, -1e-8, 0.1)
    path = write_tiff(tmp_path / "a.tif", IMAGE, **({"transform": degrees} if crs == "EPSG:4326" else {}), crs=crs)
    _, row = survey(tmp_path, path)
    with open_orthomosaic(path) as mosaic:
        corners = [160, 280, 190, 280, 190, 284, 160, 284]
        drawn = shapely.Polygon(mosaic.coordinates(corners))
        pixel = math.sqrt(abs(mosaic.dataset.transform.determinant))
        earth = mosaic.longitudes_latitudes(mosaic.coordinates(corners))
    names = {"EPSG:32632": ["o.geojson", "o_crs.geojson"], "EPSG:4326": ["o.geojson"]}.get(crs, ["o_crs.geojson"])
    assert row["geojson"] == [str(tmp_path / name) for name in names]
    polygon, properties = shapes(tmp_path / names[-1])[1]
    assert polygon.is_valid
    assert polygon.exterior.is_ccw
    assert polygon.hausdorff_distance(drawn) < 6 * pixel  # the region is wider than the crack
    assert polygon.centroid.distance(drawn.centroid) < 2 * pixel
    assert properties["number"] == 2
    assert properties["class"] == "Positive"
    assert polygon.area / pixel**2 == pytest.approx(properties["area_px"], rel=0.05)
    assert properties["p95_width_px"] == pytest.approx(4, abs=0.7)
    if crs == "EPSG:32632":
        document = json.loads((tmp_path / "o_crs.geojson").read_text())
        assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
        assert "crs" not in json.loads((tmp_path / "o.geojson").read_text())
        world, _ = shapes(tmp_path / "o.geojson")[1]
        assert world.centroid.distance(shapely.Polygon(earth).centroid) * 111_000 < 0.004  # metres: two pixels
        assert properties["p95_width_mm"] == pytest.approx(2 * properties["p95_width_px"], rel=1e-3)
        assert properties["area_m2"] == pytest.approx(properties["area_px"] * 4e-6, rel=1e-3)


def test_scales_and_classes_of_width(tmp_path, caplog):
    path = write_tiff(tmp_path / "a.tif", IMAGE)
    _, row = survey(tmp_path, path, SizesConfig(width_limits=(7, 20)))
    assert row["mm_per_pixel"] == pytest.approx(2)
    assert row["regions"][1]["width_class"] == "7 to 20 mm"  # 8 mm
    _, row = survey(tmp_path, path, SizesConfig(mm_per_pixel=0.5, width_limits=(7, 20)))
    assert (row["mm_per_pixel"], row["regions"][1]["width_class"]) == (0.5, "below 7 mm")
    stretched = write_tiff(tmp_path / "b.tif", IMAGE, Affine(1e-8, 0, 9, 0, -1e-8, 48), "EPSG:4326")
    assert survey(tmp_path, stretched)[1]["mm_per_pixel"] is None
    assert "a pixel is 0.746 x 1.11 mm on the ground" in caplog.text


def test_the_overview_shows_the_regions(tmp_path, monkeypatch):
    monkeypatch.setattr(orthomosaics, "OVERVIEW_SIDE", 160)
    survey(tmp_path, write_tiff(tmp_path / "a.tif", IMAGE))
    drawn = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
    assert drawn.shape == (160, 160, 3)
    orange = drawn[..., 0] - drawn[..., 2] > 60
    assert orange[100:140, 38:44].mean() > 0.3
    assert not orange[10:30].any()


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_what_is_complete_is_not_computed_again(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", IMAGE)
    with open_orthomosaic(path) as mosaic:
        file = EvidenceFile(tmp_path / "evidence", NETWORK, 320, 320)
        file.complete(mosaic)
        whole = file.path.read_bytes()
        sizes = Layout.of(320, 320, 32).strip_rows(map_stride(NETWORK))
        row = len(whole) // sum(sizes)
        started, real = [], tiles._row_of_tiles
        monkeypatch.setattr(tiles, "_row_of_tiles", lambda *args: started.append(args[3]) or real(*args))
        for kept in (0, 3 * row, sum(sizes[:3]) * row + 7, len(whole) - 1, len(whole)):
            file.path.write_bytes(whole[:kept])
            started.clear()
            file.complete(mosaic)
            assert file.path.read_bytes() == whole
            complete = max(n for n in range(len(sizes) + 1) if sum(sizes[:n]) * row <= kept)
            assert started == list(range(max(0, complete - 1), len(sizes)))[: len(sizes) * (kept < len(whole))]


def test_another_run_is_not_resumed(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", IMAGE)
    monkeypatch.setattr(orthomosaics, "pooled_probabilities", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        survey(tmp_path, path)
    monkeypatch.undo()
    assert (tmp_path / "state/evidence.f32").stat().st_size == 80 * 80 * 4
    write_tiff(path, IMAGE[:300])
    with pytest.raises(UserError, match=r"resume cannot continue .*state: bytes was \d+, is \d+"):
        survey(tmp_path, path, resume=True)
    _, row = survey(tmp_path, path)
    assert row["size"] == [320, 300]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("config", [{"refine": "lines"}, {"scales": (2.0,)}, {"method": "layercam"}])
def test_other_heatmaps_are_refused(tmp_path, config):
    with pytest.raises(UserError, match="orthomosaics are read with method evidence as it is"):
        survey(tmp_path, tmp_path / "a.tif", **config)


def test_networks_without_a_local_map_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read an orthomosaic by windows"):
        survey(tmp_path, tmp_path / "a.tif", network=dark_lines().without_tiles())
    with pytest.raises(UserError, match="orthomosaics need threshold"):
        survey(tmp_path, tmp_path / "a.tif", threshold=None)
