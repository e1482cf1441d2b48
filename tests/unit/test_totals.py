"""What the log says of all findings together, and the GeoJSON of each photograph."""

import json

import pytest
from findings import crack, region, row

from crackcam.batch.handover import Totals
from crackcam.render.handover import geojson

BOX = (10, 20, 60, 16)


def described(folder, widths):
    """Of images of one region each: widths in pixels, and millimetres per pixel, or None."""
    totals = Totals()
    for number, (pixels, scale) in enumerate(widths, 1):
        found = region(number, BOX, pixels and crack(61.0, pixels), scale, verdict=None)
        totals.add({**row(folder, f"{number}.jpg", [found], mm_per_pixel=scale), "rejected": int(number == 1)})
    return totals.description()


@pytest.mark.parametrize(
    ("widths", "end"),
    [
        ([(3.0, None), (8.0, None), (5.0, None)], "; the widest: 8.0 px, region 2 of 2.jpg"),
        ([(9.0, 0.1), (3.0, 0.5)], "; the widest: 1.50 mm, region 2 of 2.jpg"),
        ([(9.0, None), (3.0, 0.5)], "; the widest: 1.50 mm, region 2 of 2.jpg"),
        ([(3.0, 0.5), (9.0, None)], "; the widest: 1.50 mm, region 1 of 1.jpg"),
        ([(None, None)], ""),
    ],
)
def test_the_widest_region_is_named(tmp_path, widths, end):
    count = len(widths)
    noun, images = ("region", "image") if count == 1 else ("regions", "images")
    assert described(tmp_path, widths) == f"{count} {noun} in {count} of {count} {images}, 1 more rejected{end}"


@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        ((1.0, 2.0), {"below 1 mm": 2, "1 to 2 mm": 0, "from 2 mm": 1, "not classified": 1}),
        ((), {}),
    ],
)
def test_places_have_the_number_of_regions_of_each_class(tmp_path, limits, counts):
    found = [region(i, (10, 20, 60, 16), crack(61.0, 3.0), 0.5, "below 1 mm" if limits else None) for i in (1, 2)]
    found += [region(3, (10, 20, 60, 16), crack(61.0, 9.0), 0.5, "from 2 mm" if limits else None)]
    found += [region(4, (10, 20, 60, 16), crack(61.0, measured=0), 0.5)]
    path = tmp_path / "a.geojson"
    geojson.write(path, [row(tmp_path, "a.jpg", found, capture=(None, 47.0, 8.0, None), mm_per_pixel=0.5)], limits)
    properties = json.loads(path.read_text())["features"][0]["properties"]
    assert {k.removeprefix("regions "): v for k, v in properties.items() if k.startswith("regions ")} == counts
    assert properties["regions"] == 4
