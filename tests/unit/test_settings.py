"""What a setting takes: numbers, names, paths, choices, switches, whether from Python or as text."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from crackcam.errors import UserError
from crackcam.settings import (
    HTML_PATH,
    NAMES,
    PATH,
    PATHS,
    PATTERN,
    SWITCH,
    TEXT,
    Settings,
    choice,
    flag_of,
    number,
    setting,
    settings_of,
)

WHOLE, REAL = number(int, 0, 10, "a whole number from 0 to 10"), number(float, 0.5, 2, "a number from 0.5 to 2")


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (WHOLE, 0, 0), (WHOLE, "10", 10), (WHOLE, 3.0, 3), (WHOLE, np.int64(3), 3), (REAL, "0.5", 0.5), (REAL, 2, 2.0),
        (TEXT, "a", "a"), (PATH, "a/b", Path("a/b")), (PATH, Path("a"), Path("a")), (HTML_PATH, "a.HTML", Path("a.HTML")),
        (PATHS, "a", (Path("a"),)), (PATHS, ["a", Path("b")], (Path("a"), Path("b"))), (PATHS, ("a",), (Path("a"),)),
        (NAMES, "a, b,,c", ("a", "b", "c")), (NAMES, ["a,b", " c "], ("a,b", "c")), (PATTERN, "(a)b", "(a)b"),
        (SWITCH, False, False), (choice("x", "y"), "y", "y"), (choice(4, 8), "8", 8), (choice(4, 8), 4, 4),
    ],
)  # fmt: skip
def test_what_is_taken(kind, value, found):
    assert kind.parse(value) == found
    assert type(kind.parse(value)) is type(found)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        *((WHOLE, value, "is not a whole number from 0 to 10") for value in (-1, 11, "11", "1.5", 1.5, "", None, True, "nan", float("nan"), 10**400, [1])),
        *((REAL, value, "is not a number from 0.5 to 2") for value in (0.49, "2.01", float("nan"), "nan", "inf", None, False, "1,5", {})),
        (TEXT, "", "is empty"), (TEXT, " \t", "is empty"), (TEXT, 5, "is not text"),
        (PATH, "", "is not a possible file name"), (PATH, "a\0b", "is not a possible file name"), (PATH, "\ud800", "is not a possible file name"),
        (PATH, 5, "is not a possible file name"), (PATHS, ["a", ""], "is not a possible file name"), (PATHS, 5, "is not a possible file name"),
        (HTML_PATH, "a.htm", "must end in .html"), (HTML_PATH, 5, "must end in .html"), (HTML_PATH, "\0.html", "is not a possible file name"),
        (NAMES, ",", "names nothing"), (NAMES, [], "names nothing"), (PATHS, [], "names nothing"), (NAMES, [5], "is not text"), (NAMES, 5, "is not text"),
        (PATTERN, "(", "is not a regular expression: "), (PATTERN, "a{99999999999}", "is not a regular expression: "),
        (PATTERN, "(" * 5000, "is not a regular expression: "), (PATTERN, 5, "is not a regular expression: "),
        (SWITCH, 1, "is not True or False"), (SWITCH, "yes", "is not True or False"), (SWITCH, None, "is not True or False"),
        (choice("x", "y"), "z", "is not one of x, y"), (choice(4, 8), 5, "is not one of 4, 8"), (choice("x"), None, "is not one of x"),
    ],
)  # fmt: skip
def test_what_is_refused(kind, value, message):
    with pytest.raises(ValueError, match="is not|is empty|must end|names nothing") as caught:
        kind.parse(value)
    assert str(caught.value).startswith(message)


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Some settings, and a field that is none."""

    count: int = setting(1, WHOLE, "how many")
    scale: float | None = setting(None, REAL, "how large", affects_result=False)
    folder: Path | None = setting(None, PATH, "where")  # noqa: RUF009
    name_list: tuple = setting(("a",), NAMES, "which")
    note: str = ""

    def check(self) -> None:
        if self.count == 7 and self.scale:
            raise UserError("not 7 with a scale")


def test_values_become_what_they_stand_for():
    found = Example(count="3", scale="1", folder="x", name_list="b,c")
    assert (found.count, found.scale, found.folder, found.name_list) == (3, 1.0, Path("x"), ("b", "c"))
    assert found == Example(count=3, scale=1.0, folder=Path("x"), name_list=["b", "c"])


def test_none_is_not_given_where_it_is_the_default_alone():
    assert Example(scale=None).scale is None
    with pytest.raises(UserError, match="count: None is not a whole number from 0 to 10"):
        Example(count=None)


def test_a_wrong_value_is_named_with_its_field_and_its_flag():
    for values, message in (
        ({"count": 11}, "count: 11 is not a whole number from 0 to 10"),
        ({"scale": "x"}, "scale: 'x' is not a number from 0.5 to 2"),
        ({"name_list": ","}, "name_list: ',' names nothing"),
        ({"count": 7, "scale": 1}, "not 7 with a scale"),
    ):
        with pytest.raises(UserError) as caught:
            Example(**values)
        assert str(caught.value) == message
        name, *rest = message.split(":")
        assert not rest or caught.value.with_flags == message.replace(name, flag_of(name), 1)
        assert isinstance(caught.value, ValueError)


def test_lists_of_settings():
    assert [each.name for each in settings_of(Example)] == ["count", "scale", "folder", "name_list"]
    assert [flag_of(each.name) for each in settings_of(Example)] == ["--count", "--scale", "--folder", "--name-list"]
    assert Example(count=2, name_list=["a"]).given("count", "scale", "name_list") == ["--count"]
    found = Example(folder="x", scale=1)
    assert json.loads(json.dumps(found.as_dict())) == {"count": 1, "scale": 1.0, "folder": "x", "name_list": ["a"]}
    assert found.as_dict(affecting_result=True) == {"count": 1, "folder": "x", "name_list": ["a"]}
