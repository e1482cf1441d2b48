"""What a person decided about regions: read from a CSV, and matched with the regions of another run.

The file is written by the button of a findings report, or is a table of findings whose column ``verdict`` was filled in
a spreadsheet. Regions are matched by their image and the overlap of their boxes, because their numbers change with the
network and the threshold.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crackcam.data.names import HandoverNames, match_names
from crackcam.errors import UserError
from crackcam.types import Box

ACCEPT, REJECT = "accept", "reject"
WORDS = {"accept": ACCEPT, "accepted": ACCEPT, "reject": REJECT, "rejected": REJECT}
COLUMNS = ("image", "x", "y", "width", "height", "verdict")
SEPARATORS = (",", ";", "\t")  # spreadsheets write semicolons where the comma is the decimal sign
OVERLAP = 0.5  # intersection over union from which two boxes are of one region
LARGEST = 10**9  # pixels


@dataclass(frozen=True)
class Verdict:
    """A person's decision about one region.

    Attributes:
        image: name of the image, as in the table of findings.
        box: (x, y, width, height) in pixels of the image.
        verdict: :data:`ACCEPT` or :data:`REJECT`.
        region: its number in that run, as text; only for people.
    """

    image: str
    box: Box
    verdict: str
    region: str = ""

    def to_dict(self) -> dict[str, str | int]:
        """As a line of the file has it."""
        x, y, width, height = self.box
        box: dict[str, str | int] = {"x": x, "y": y, "width": width, "height": height}
        return {"image": self.image, "region": self.region, **box, "verdict": self.verdict}


@dataclass(frozen=True)
class VerdictFile:
    """All decisions of a file.

    Attributes:
        path: the file.
        verdicts: one for each region that was decided, in the order of the file.
        digest: equal for equal decisions.
    """

    path: Path
    verdicts: Sequence[Verdict] = field(repr=False)

    @property
    def digest(self) -> str:
        text = "\n".join(str((each.image, each.box, each.verdict)) for each in self.verdicts)
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def of_files(self, paths: Sequence[Path]) -> FileVerdicts:
        """The verdicts of the files of a run; see :func:`crackcam.data.names.match_names`."""
        names = HandoverNames.of(paths)
        by_name = {names.name(path): path for path in paths}
        meant = match_names({each.image for each in self.verdicts}, by_name)
        found: dict[Path, list[Verdict]] = {}
        for each in self.verdicts:
            if each.image in meant:
                found.setdefault(by_name[meant[each.image]], []).append(each)
        return FileVerdicts(self, found)


@dataclass(frozen=True)
class FileVerdicts:
    """Verdicts, by the files that they are about.

    Attributes:
        source: all of them.
        by_file: those of each file that has some.
    """

    source: VerdictFile
    by_file: dict[Path, list[Verdict]] = field(repr=False)

    @property
    def digest(self) -> str:
        """As :attr:`VerdictFile.digest`."""
        return self.source.digest

    def judge(self, path: Path, boxes: Sequence[Box]) -> list[str | None]:
        """What was decided about the regions of a file, see :func:`judge`."""
        return judge(boxes, self.by_file.get(path, ()))


def read_verdicts(path: Path) -> VerdictFile:
    """Read verdicts from a CSV with the columns :data:`COLUMNS`; others are ignored.

    Cells are separated by commas, semicolons or tabs. Lines with an empty verdict are left out.

    Raises:
        UserError: the file cannot be read, a column is missing, or a value is invalid; the message names the line.
    """
    try:
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    head = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}, line 1: no column {missing[0]}; verdicts have {', '.join(COLUMNS)}")
        return VerdictFile(path, [found for row in reader if (found := _verdict(path, reader.line_num, row))])
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.reader.line_num}: {error}") from None


def _verdict(path: Path, line: int, row: Mapping[str, str | None]) -> Verdict | None:
    """The verdict in a line; None: nothing was decided."""

    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    decided = cell("verdict").casefold()
    if not decided:
        return None
    if decided not in WORDS:
        raise UserError(f"{path}, line {line}: verdict is {cell('verdict')!r}, not {ACCEPT} or {REJECT}")
    if not cell("image"):
        raise UserError(f"{path}, line {line}: no name of an image")
    x, y, width, height = (_pixels(path, line, name, cell(name)) for name in COLUMNS[1:5])
    if not (width and height):
        raise UserError(f"{path}, line {line}: a box of {width} x {height} pixels")
    return Verdict(cell("image"), (x, y, width, height), WORDS[decided], cell("region"))


def _pixels(path: Path, line: int, name: str, text: str) -> int:
    try:
        value = float(text)
        if value != int(value) or not 0 <= value <= LARGEST:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{path}, line {line}: {name} is {text!r}, not a number of pixels") from None
    return int(value)


def judge(boxes: Sequence[Box], verdicts: Sequence[Verdict]) -> list[str | None]:
    """What was decided about the regions of one image: for each box a verdict, or None.

    Each verdict counts for one region, that with the largest overlap; below :data:`OVERLAP` it counts for none.

    Examples:
        >>> seen = Verdict("a.jpg", (10, 10, 40, 4), REJECT)
        >>> judge([(0, 90, 9, 9), (10, 10, 44, 4)], [seen])
        [None, 'reject']
    """
    pairs = [(_overlap(box, each.box), i, j) for i, box in enumerate(boxes) for j, each in enumerate(verdicts)]
    found: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], -pair[2])):  # of two alike the later counts
        if overlap >= OVERLAP and i not in found and j not in found.values():
            found[i] = j
    return [verdicts[found[i]].verdict if i in found else None for i in range(len(boxes))]


def missing(verdicts: Sequence[Verdict], known: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that are not among those that are known, by the names of images and the overlap of boxes.

    Examples:
        >>> seen = Verdict("a.jpg", (10, 10, 40, 4), ACCEPT)
        >>> missing([seen], [Verdict("a.jpg", (10, 10, 44, 4), ACCEPT)]), missing([seen], []) == [seen]
        ([], True)
    """
    of_image: defaultdict[str, tuple[list[Verdict], list[Verdict]]] = defaultdict(lambda: ([], []))
    for which, several in enumerate((verdicts, known)):
        for each in several:
            of_image[each.image][which].append(each)
    return [
        each
        for own, others in of_image.values()
        for each, same in zip(own, judge([one.box for one in own], others), strict=True)
        if each.verdict != same
    ]


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    sides = [
        min(a + length, b + reach) - max(a, b)
        for a, length, b, reach in ((one[0], one[2], other[0], other[2]), (one[1], one[3], other[1], other[3]))
    ]
    shared = max(0, sides[0]) * max(0, sides[1])
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
