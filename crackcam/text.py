"""Text for people: numbers with their nouns, percentages, one printable line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def visible(text: str) -> str:
    r"""One line that any terminal shows and none obeys: what is not printable comes out as Python writes it, ``\x1b``.

    Names of files and what a stranger's weights say of themselves may hold anything.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: Exception) -> str:
    """What an exception says first, cut; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def counted(number: int, noun: str, plural: str = "") -> str:
    """'1 picture', '1,200 pictures'."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float) -> str:
    """'98.2 %'; never a rounded '100.0 %' or '0.0 %' for what is not quite so."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def confidence_text(probability: float) -> str:
    """A network's probability in words: it is never certain, float32 only rounds it to 1."""
    return percent(min(probability, 1 - 1e-9))


def shorten(text: str, length: int) -> str:
    """The text, its middle left out where it is longer; its end tells files apart. No mathtext, all of it visible."""
    text = visible(text)
    text = text if len(text) <= length else f"{text[: length // 3]}…{text[len(text) - length + length // 3 + 1 :]}"
    return text.replace("$", r"\$")
