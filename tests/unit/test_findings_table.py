"""The table of findings: what a person wrote into it is kept."""

import logging

import pytest

from crackcam.data.verdicts import ACCEPT, Verdict
from crackcam.render.handover import table

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
