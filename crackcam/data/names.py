"""Names of images in what is handed over: relative to their common folder, so that no folder of this machine shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crackcam.files import common_folder, name_below
from crackcam.text import normalized, visible

FORMULA = "=+-@"  # a cell that begins so is a formula to a spreadsheet


@dataclass(frozen=True)
class HandoverNames:
    """How images are named for somebody who has them in another place.

    Attributes:
        folder: that all of them lie below; None where there is none.

    Examples:
        >>> from pathlib import Path
        >>> names = HandoverNames.of([Path("flights/may/a.jpg"), Path("flights/june/b.jpg")])
        >>> names.name(Path("flights/june/b.jpg"))
        'june/b.jpg'
    """

    folder: Path | None

    @classmethod
    def of(cls, paths: Iterable[Path]) -> HandoverNames:
        """The names of these files."""
        return cls(common_folder(paths))

    def name(self, path: Path) -> str:
        """The name of one of the files: one printable line, ``/`` between folders.

        ``./`` comes before a name that a spreadsheet would take for a formula: it names the same file.
        """
        name = visible(name_below(self.folder, path))
        return f"./{name}" if name[0] in FORMULA else name


def match_names(wanted: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Which of the known names each of the wanted ones means.

    Names that were made for another selection of the same images have more or fewer folders in front: then one name is
    the end of the other. A name that several images share means none of them.

    Returns:
        The known name by the wanted one; without those that mean none, or several.

    Examples:
        >>> match_names(["may/a.jpg", "b.jpg", "c.jpg"], ["a.jpg", "june/b.jpg", "june/c.jpg", "may/c.jpg"])
        {'may/a.jpg': 'a.jpg', 'b.jpg': 'june/b.jpg'}
    """
    asked = {name: _parts(name) for name in wanted}
    last = {parts[-1] for parts in asked.values()}
    alike: dict[str, list[tuple[str, list[str]]]] = {}
    for name in known:
        parts = _parts(name)
        if parts[-1] in last:
            alike.setdefault(parts[-1], []).append((name, parts))
    found = {}
    for name, parts in asked.items():
        candidates = alike.get(parts[-1], [])
        exact = [other for other, own in candidates if own == parts]
        ends = [other for other, own in candidates if own[-len(parts) :] == parts[-len(own) :]]
        meant = set(exact or ends)
        if len(meant) == 1:
            found[name] = meant.pop()
    return found


def _parts(name: str) -> list[str]:
    return [part for part in normalized(name).split("/") if part != "."] or [""]
