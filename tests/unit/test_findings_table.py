"""The table of findings, in which what a person wrote is kept; and the GeoJSON beside it."""

import json
import logging

import pytest
from findings import crack, region, row

from crackcam.data.verdicts import ACCEPT, Verdict
from crackcam.render.handover import geojson, table

HEAD = "image,x,y,width,height,verdict\n"


def replaced(path, text, known=()):
    path.write_text(text)
    table.write(path, [], known)
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{HEAD}a.jpg,1,2,3,4,reject\n", "has regions that were rejected"),
        (f"{HEAD}a.jpg,1,2,3,4,accept\n", "has regions that were accepted"),
        (f"{HEAD}a.jpg,1,2,3,4,rejct\n", "cannot be read as verdicts"),
    ],
)
def test_verdicts_in_a_table_that_is_replaced_are_kept(tmp_path, caplog, text, reason):
    caplog.set_level(logging.WARNING)
    path, previous = tmp_path / "a.csv", tmp_path / "a.previous.csv"
    assert replaced(path, text) == [",".join(table.COLUMNS)]
    assert previous.read_text() == text
    assert reason in caplog.text


def test_earlier_verdicts_are_not_replaced_by_later_ones(tmp_path):
    path, texts = tmp_path / "a.csv", [f"{HEAD}a.jpg,{x},2,3,4,reject\n" for x in (1, 2, 3)]
    for text in texts:
        replaced(path, text)
    kept = [tmp_path / f"a.previous{end}.csv" for end in ("", "-2", "-3")]
    assert [each.read_text() for each in kept] == texts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", False),
        ("a.jpg,1,2,30,40,accept\na.jpg,90,2,30,40,accept\n", False),
        ("a.jpg,1,2,30,40,accept\na.jpg,200,2,30,40,accept\n", True),  # one more
        ("b.jpg,1,2,30,40,accept\n", True),  # of another image
        ("a.jpg,1,2,30,40,reject\n", True),  # decided otherwise
    ],
)
def test_a_table_is_kept_where_the_run_does_not_know_a_verdict(tmp_path, text, kept):
    known = [Verdict("a.jpg", box, ACCEPT) for box in ((1, 2, 30, 42), (90, 2, 30, 40))]  # overlap is enough
    replaced(tmp_path / "a.csv", HEAD + text, known)
    assert (tmp_path / "a.previous.csv").exists() == kept


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
