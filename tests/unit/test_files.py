"""Names of files in results that leave the machine; long lists as JSON."""

import json
from pathlib import Path

import pytest

from crackcam.files import common_folder, name_below, write_json_stream


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["flight/a.jpg", "flight/b.jpg"], ["a.jpg", "b.jpg"]),
        (["flight/north/1.jpg", "flight/south/1.jpg"], ["north/1.jpg", "south/1.jpg"]),
        (["../elsewhere/a.jpg", "b.jpg"], ["elsewhere/a.jpg", "{here}/b.jpg"]),
        (["flight/a.jpg"], ["a.jpg"]),
        (["./flight/../flight/a.jpg", "flight/deeper/b.jpg"], ["a.jpg", "deeper/b.jpg"]),
    ],
)
def test_names_are_unique_and_hold_nothing_above_the_common_folder(files, names, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = common_folder(files)
    assert [name_below(folder, file) for file in files] == [name.format(here=here.name) for name in names]


def test_without_a_common_folder_the_own_name_is_left():
    assert common_folder([]) is None
    assert name_below(None, Path("a/b.jpg")) == "b.jpg"
    assert name_below(Path("/other"), "a/b.jpg") == "b.jpg"


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": "\udce9"}, {"b": None}]])
def test_json_with_long_lists(tmp_path, items):
    path = tmp_path / "lists.json"
    write_json_stream(path, {"type": "x"}, {"first": iter(items), "second": iter([])})
    assert json.loads(path.read_text()) == {"type": "x", "first": items, "second": []}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_stream(path, {}, {"first": [{"a": float("nan")}]})
    assert json.loads(path.read_text())["type"] == "x"  # the earlier file is left
    assert [each.name for each in tmp_path.iterdir()] == ["lists.json"]
