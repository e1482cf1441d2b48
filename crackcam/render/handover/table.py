"""The table of findings: one row a region."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crackcam.data.verdicts import Verdict, missing, read_verdicts
from crackcam.errors import UserError
from crackcam.files import write_atomically, write_cells
from crackcam.sizes import NARROWEST

logger = logging.getLogger(__name__)

Row = dict[str, Any]

COLUMNS = (
    "image",
    "class",
    "probability",
    "region",
    "time",
    "latitude",
    "longitude",
    "altitude",
    "x",
    "y",
    "width",
    "height",
    "area",
    "length_px",
    "mean_width_px",
    "p95_width_px",
    "max_width_px",
    "max_width_x",
    "max_width_y",
    "length_mm",
    "mean_width_mm",
    "p95_width_mm",
    "max_width_mm",
    "mm_per_pixel",
    "width_note",
    "width_class",
    "orientation",
    "peak",
    "verdict",
)
WIDTHS = ("mean", "p95", "maximum")  # of a region; the last is max in the names of columns


def write(path: Path, rows: Iterable[Row], known: Sequence[Verdict] = ()) -> None:
    """Write every region of the images as CSV; unknown values are empty cells.

    Args:
        path: the file. An earlier one in which a person decided something that is not known, or whose verdicts cannot
            be read, is kept as ``<name>.previous.csv``; if there is one already, as ``...previous-2.csv`` and so on.
        rows: of the images, see :mod:`crackcam.batch.handover`.
        known: the verdicts that this run was given.
    """
    _keep_verdicts(path, known)
    write_atomically(path, lambda temporary: write_cells(temporary, _cells(rows)))


def _keep_verdicts(path: Path, known: Sequence[Verdict]) -> None:
    # A table that is written here has no rejected regions and no misspelt verdicts, and accepts what was known.
    if not path.is_file():
        return
    try:
        lost = sorted(each.verdict for each in missing(read_verdicts(path).verdicts, known))
        if not lost:
            return
        reason = f"has regions that were {lost[-1]}ed"
    except UserError as error:
        reason = f"cannot be read as verdicts ({error})"
    previous = _free_name(path)
    write_atomically(previous, lambda temporary: shutil.copyfile(path, temporary))
    logger.warning("%s %s: keeping it as %s", path, reason, previous)


def _free_name(path: Path) -> Path:
    """'a.previous.csv' for 'a.csv', then 'a.previous-2.csv': an earlier one may hold other decisions."""
    names = (f"{path.stem}.previous{f'-{n}' if n > 1 else ''}{path.suffix}" for n in itertools.count(1))
    return next(found for name in names if not (found := path.with_name(name)).exists())


def _cells(rows: Iterable[Row]) -> Iterator[list]:
    yield list(COLUMNS)
    for row in rows:
        for region in row["regions"]:
            found = _values(row, region)
            yield [found.get(name) for name in COLUMNS]


def _values(row: Row, region: Row) -> Row:
    """The values of one region by column; None is an empty cell."""
    x, y, width, height = region["box"]
    return {
        **row.get("capture", {}),
        "image": row["image"],
        "class": row["target"],
        "probability": row["probabilities"].get(row["target"]),
        "region": region["number"],
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "area": region["area"],
        **_sizes(region),
        "mm_per_pixel": row.get("mm_per_pixel"),
        "width_class": region.get("width_class"),
        "peak": region["peak"],
        "verdict": region.get("verdict"),
    }


def _sizes(region: Row) -> Row:
    """Sizes of the crack in a region; of the marking the length alone, where no crack was measured."""
    crack, millimetres = region.get("crack"), region.get("mm") or {}
    if not crack:
        return {"length_px": region["length"], "width_note": "not measured"}
    place = crack["place"] or (None, None)
    found = {"length_px": crack["length"], "length_mm": millimetres.get("length"), "orientation": crack["orientation"]}
    for name in WIDTHS:
        column = f"{'max' if name == 'maximum' else name}_width"
        found |= {f"{column}_px": crack[name], f"{column}_mm": millimetres.get(name)}
    return {**found, "max_width_x": place[0], "max_width_y": place[1], "width_note": width_note(crack)}


def width_note(crack: Row) -> str | None:
    """Why a region has no mean width; None: it has one."""
    if crack["mean"] is not None:
        return None
    return f"below {NARROWEST:g} px" if crack["measured"] else "not measurable"
