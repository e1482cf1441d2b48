"""Text for people: numbers with their nouns, percentages, one printable line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
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


def duration(seconds: float) -> str:
    """'9 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


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


def columns(text: str) -> int:
    """The width of a text in characters: those of Chinese, Japanese and Korean count twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shorten(text: str, length: int) -> str:
    """At most ``length`` printable columns, the middle left out; ``$`` is escaped, which starts mathtext."""
    text = visible(text)
    if columns(text) > length:
        start = _fitting(text, length // 3)
        end = _fitting(text[::-1], length - length // 3 - 1)[::-1]
        text = f"{start}…{end}"
    return text.replace("$", r"\$")


def wrap(text: str, length: float) -> list[str]:
    """Lines of at most ``length`` columns that hold all of a text; ``$`` is escaped.

    Lines end at spaces; longer words behind slashes, hyphens and underscores, or anywhere.

    Examples:
        >>> from crackcam.text import wrap
        >>> wrap("evidence for Positive, at layer4", 16)
        ['evidence for', 'Positive, at', 'layer4']
    """
    words = re.findall(r"\s*\S+", visible(text))
    parts = [part for word in words for part in ([word] if columns(word.strip()) <= length else _parts(word))]
    lines = [""]
    for part in parts:
        if lines[-1] and columns((lines[-1] + part).strip()) > length:
            lines.append("")
        rest = part
        while columns(rest.strip()) > length:
            start = _fitting(rest, max(2, int(length)))
            lines[-1:] = [start, ""]
            rest = rest[len(start) :]
        lines[-1] += rest
    return [line.strip().replace("$", r"\$") for line in lines]


def _parts(word: str) -> list[str]:
    return re.findall(r"[^/_-]*[/_-]|[^/_-]+", word)


def _fitting(text: str, length: int) -> str:
    """The start of a text that has at most so many columns."""
    end = min(len(text), length)
    while columns(text[:end]) > length:
        end -= 1
    return text[:end]


def spelled_alike(text: str) -> str:
    """What two spellings of a name have in common: 'Eigen-CAM' and 'eigencam', 'GOLDEN_retriever' and its like."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)|_", "", unicodedata.normalize("NFKC", text).casefold())


def match_name(text: str, names: Iterable[str]) -> str | None:
    """The name that is meant: the one written so, else the only one written or spelled alike; None where there is none.

    Examples:
        >>> from crackcam.text import match_name
        >>> match_name("positive", ["Negative", "Positive"])
        'Positive'
        >>> match_name("cat", ["Cat", "CAT"]) is None
        True
    """
    known = list(names)
    for form in (str, normalized, spelled_alike):
        alike = [name for name in known if form(name) == form(text)]
        if len(alike) == 1:
            return alike[0]
    return None


def split_list(value: Any) -> Sequence[Any]:
    """The items of a list or tuple; of text, those between commas; any other value is the only item."""
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list | tuple) else [value]
