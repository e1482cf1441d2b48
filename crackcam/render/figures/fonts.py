"""Fonts for names in any script: installed ones, where matplotlib's own lacks a character."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from crackcam.text import counted

logger = logging.getLogger(__name__)

OWN = "DejaVu Sans"  # comes with matplotlib
NOT_FOR_NAMES = ("cm", "STIX", "Last Resort")  # families for formulas; and one of boxes
NAMED = 5  # characters in a message

_reported: set[str] = set()


@contextmanager
def fonts_for(figure: Figure, report: bool = True) -> Iterator[None]:
    """Within it, a figure can be drawn: its texts have fonts that are installed here, and matplotlib does not warn.

    Args:
        figure: complete.
        report: whether to log once which characters no font has.
    """
    for axis in (axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)):
        axis.get_ticklabels()  # made now, not when they are drawn
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and not text.get_text().isascii()]
    wanted = {c for text in texts for c in text.get_text() if c.isprintable()} - _characters(_path(OWN))
    families, missing = _cover(frozenset(wanted))
    for text in texts if families else ():
        text.set_fontfamily([OWN, *families])
    missing -= _reported
    if report and missing:
        _reported.update(missing)
        logger.warning(
            "no installed font has %s (%s): figures show boxes instead; install a font such as Noto Sans CJK",
            counted(len(missing), "character"),
            " ".join(sorted(missing)[:NAMED]) + (" ..." if len(missing) > NAMED else ""),
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        yield


def _cover(wanted: frozenset[str]) -> tuple[list[str], set[str]]:
    """Families that have as many of some characters as possible, the most useful first; and what none has."""
    families, missing = [], set(wanted)
    known = _families() if missing else {}
    while missing:
        best = max(known, key=lambda family: len(missing & known[family]))
        if not missing & known[best]:
            break
        families.append(best)
        missing -= known[best]
    return families, missing


@functools.cache
def _families() -> dict[str, frozenset[str]]:
    """The characters of each installed family; matplotlib's list may be older than a font."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError):  # a font that FreeType cannot read
            logger.debug("unreadable font %s", path)
    plain = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist if entry.style == "normal"}
    return {name: _characters(path) for name, path in sorted(plain.items()) if not name.startswith(NOT_FOR_NAMES)}


@functools.cache
def _characters(path: str) -> frozenset[str]:
    """The characters that a font file has outlines for."""
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()  # colored emoji are bitmaps


def _path(family: str) -> str:
    return str(font_manager.findfont(family))
