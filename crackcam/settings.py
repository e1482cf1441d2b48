"""What a setting is: its type, default, limits and help text, in one place for the command line and for Python.

A setting is a field of a frozen dataclass that derives from :class:`Settings`, made by :func:`setting`. The command
line builds its flags from these fields, a checkpoint stores them, and ``--resume`` compares them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from crackcam.errors import UserError
from crackcam.text import split_list


class Kind(NamedTuple):
    """The values that a setting takes.

    Attributes:
        parse: turns text of the command line, or a value given in Python, into the value; raises ValueError whose
            message ends a sentence that begins with the text: "'x' " + "is not a number above 0".
        choices: all values, where they can be listed.
        many: whether the command line takes several words.
    """

    parse: Callable[[Any], Any]
    choices: tuple[str, ...] | None = None
    many: bool = False


# -- kinds -----------------------------------------------------------------------------------------------------------


def number(convert: type, low: float, high: float, words: str) -> Kind:
    """Numbers from ``low`` to ``high``, which ``words`` describes: "a number above 0"."""

    def parse(value: Any) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            found = convert(value)
            if isinstance(value, float) and found != value:  # int(2.5)
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"is not {words}") from None
        if not low <= found <= high:
            raise ValueError(f"is not {words}")
        return found

    return Kind(parse)


def choice(*names: Any) -> Kind:
    """One of some values."""
    texts = {str(name): name for name in names}

    def parse(value: Any) -> Any:
        if str(value) not in texts:
            raise ValueError(f"is not one of {', '.join(texts)}")
        return texts[str(value)]

    return Kind(parse, tuple(names))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    if not value.strip():
        raise ValueError("is empty")
    return value


def _path(value: Any) -> Path:
    try:
        text = os.fspath(value)
        possible = bool(text) and b"\0" not in os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        possible = False
    if not possible:  # an empty name would be the working directory
        raise ValueError("is not a possible file name")
    return Path(text)


def _html_path(value: Any) -> Path:
    if not str(value).lower().endswith(".html"):
        raise ValueError("must end in .html")
    return _path(value)


def _names(value: Any) -> tuple[str, ...]:
    parts = split_list(value)
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("is not text")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise ValueError("names nothing")
    return found


def _paths(value: Any) -> tuple[Path, ...]:
    found = tuple(map(_path, value if isinstance(value, list | tuple) else [value]))
    if not found:
        raise ValueError("names nothing")
    return found


def _pattern(value: Any) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not True or False")
    return value


TEXT, PATH, PATHS, HTML_PATH, NAMES, PATTERN = map(Kind, (_text, _path, _paths, _html_path, _names, _pattern))
PATHS = PATHS._replace(many=True)
SWITCH = Kind(_switch)


# -- settings --------------------------------------------------------------------------------------------------------


def setting(
    default: Any,
    kind: Kind,
    help_text: str,
    *,
    metavar: str | None = None,
    implied: Any = None,
    affects_result: bool = True,
) -> Any:
    """A field of a :class:`Settings` class.

    Args:
        default: its value; None always means: not given.
        kind: the values that it takes.
        help_text: one phrase for ``--help`` and the documentation.
        metavar: its value in ``--help``.
        implied: the value of the flag alone, where it may stand without one.
        affects_result: whether another value gives another result. A run is resumed with equal values of those that do.
    """
    metadata = {
        "kind": kind,
        "help": help_text,
        "metavar": metavar,
        "implied": implied,
        "affects_result": affects_result,
    }
    return field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """'val_fraction' -> '--val-fraction'."""
    return f"--{name.replace('_', '-')}"


class Settings:
    """Base of all groups of settings: checks every value where an object is made.

    Raises:
        UserError: a value is out of its limits; or two values exclude each other, see :meth:`check`.
    """

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            try:
                object.__setattr__(self, each.name, each.metadata["kind"].parse(value))
            except ValueError as error:
                raise UserError(f"{flag_of(each.name)}: {value!r} {error}") from None
        self.check()

    def check(self) -> None:
        """Raises UserError where two values exclude each other."""

    def given(self, *names: str) -> list[str]:
        """Those of the names whose value is not the default, as flags."""
        by_name = {each.name: each for each in settings_of(type(self))}
        return [flag_of(name) for name in names if getattr(self, name) != by_name[name].default]

    def as_dict(self, affecting_result: bool = False) -> dict[str, Any]:
        """Values by name, as JSON has them.

        Args:
            affecting_result: only those that change a result.
        """
        chosen = [each for each in settings_of(type(self)) if each.metadata["affects_result"] or not affecting_result]
        return {each.name: _as_json(getattr(self, each.name)) for each in chosen}


def settings_of(cls: type) -> Sequence[Field]:
    """The fields of a :class:`Settings` class that are settings."""
    return [each for each in fields(cls) if "kind" in each.metadata]


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
