"""CSV files: right in Excel, and in what else reads them."""

import csv
import io
from pathlib import Path

import pytest

from crackcam.batch import folders
from crackcam.batch.streaming import Run
from crackcam.files import write_csv

BOM = b"\xef\xbb\xbf"
ROWS = [{"file": "a/Brüche 1.jpg", "true": "Brüche", "p": 0.5}, {"file": "b,\n.jpg", "true": None, "p": 1}]


def as_excel(path):
    """Cells as Excel reads them: UTF-8 with a mark, else in the encoding of the machine's language."""
    data = path.read_bytes()
    text = data.decode("utf-8-sig" if data.startswith(BOM) else "cp1252")
    return list(csv.reader(io.StringIO(text, newline="")))


def test_umlauts_open_right_in_excel(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, ROWS)
    assert as_excel(path) == [["file", "true", "p"], ["a/Brüche 1.jpg", "Brüche", "0.5"], ["b,\n.jpg", "", "1"]]
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert next(csv.DictReader(file))["file"] == "a/Brüche 1.jpg"


def test_plain_ascii_has_no_mark(tmp_path):
    write_csv(tmp_path / "table.csv", [{"file": "a.jpg", "p": 0.25}])
    assert (tmp_path / "table.csv").read_bytes() == b"file,p\r\na.jpg,0.25\r\n"


def test_names_that_are_no_text_keep_their_bytes(tmp_path):
    write_csv(tmp_path / "table.csv", [{"file": "caf\udce9.jpg"}])
    assert (tmp_path / "table.csv").read_bytes() == BOM + b"file\r\ncaf\xe9.jpg\r\n"


def test_names_that_a_spreadsheet_takes_for_formulas_stay_as_they_are(tmp_path):
    """docs/reference/files.md says so: a table names the files that there are."""
    write_csv(tmp_path / "table.csv", [{"file": "=cmd|'/c calc'!A1.jpg"}, {"file": "+1.jpg"}, {"file": "@a.jpg"}])
    assert as_excel(tmp_path / "table.csv")[1:] == [["=cmd|'/c calc'!A1.jpg"], ["+1.jpg"], ["@a.jpg"]]


@pytest.mark.parametrize(("name", "mark"), [("Brüche", BOM), ("plain", b"")])
def test_tables_of_whole_folders(tmp_path, monkeypatch, name, mark):
    class Task:
        header = ("file", "true")

        def cells(self, row):
            return [row["file"], row["true"]]

    run = Run(tmp_path / "table.csv", [(name, Path("a.jpg"))], 1, {}, "testing")
    monkeypatch.setattr(folders.streaming, "rows", lambda run: iter([{"file": "a.jpg", "true": name}]))
    folders._write_table(run, Task())
    assert run.table.read_bytes() == mark + f"file,true\r\na.jpg,{name}\r\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
