"""Text for people: numbers with their nouns, percentages, one printable line."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Literal


def visible(text: str) -> str:
    r"""One line without control characters: what is not printable is escaped as Python does it, ``\x1b``.

    File names and the metadata of untrusted weights may hold sequences that a terminal would obey.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def normalized(name: str, form: Literal["NFC", "NFD"] = "NFC") -> str:
    """A name in one Unicode form, in which equal names compare equal: macOS writes "e" and its accent separately."""
    return unicodedata.normalize(form, name)


def first_line(error: Exception) -> str:
    """The first line of an exception's message, at most 200 characters; its class name where there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def counted(number: int, noun: str, plural: str = "") -> str:
    """'1 image', '1,200 images'."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(fraction: float) -> str:
    """'98.2 %' for 0.982; never a rounded '100.0 %' or '0.0 %' for what is not exactly 1 or 0."""
    if 0.9995 <= fraction < 1:
        return "> 99.9 %"
    if 0 < fraction < 0.0005:
        return "< 0.1 %"
    return f"{100 * fraction:.1f} %"


def confidence_text(probability: float) -> str:
    """A model's probability as a percentage; never 100 %, to which float32 may round it."""
    return percent(min(probability, 1 - 1e-9))


def shorten(text: str, length: int) -> str:
    """At most ``length`` printable characters, the middle left out; ``$`` is escaped, which starts mathtext."""
    text = visible(text)
    text = text if len(text) <= length else f"{text[: length // 3]}…{text[len(text) - length + length // 3 + 1 :]}"
    return text.replace("$", r"\$")


def split_list(value: Any) -> Sequence[Any]:
    """The items of a list or tuple; of text, those between commas; any other value is the only item."""
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list | tuple) else [value]
