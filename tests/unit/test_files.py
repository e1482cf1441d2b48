"""Names of files in results that leave the machine."""

from pathlib import Path

import pytest

from crackcam.files import common_folder, name_below


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
