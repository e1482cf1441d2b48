"""Connected components of a mask that does not fit in memory: found chunk by chunk, across their borders.

The two-pass algorithm of Rosenfeld and Pfaltz, Sequential Operations in Digital Picture Processing, Journal of the ACM,
1966, with chunks of rows in place of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

CHUNK = 256  # rows at a time


@dataclass
class Component:
    """One component, neighbours at corners included.

    Attributes:
        top, left, bottom, right: around it; the last two are exclusive.
        seed: row and column of its first place, from top to bottom.
    """

    top: int
    left: int
    bottom: int
    right: int
    seed: tuple[int, int]

    def include(self, other: Component) -> None:
        """Grow around another one."""
        self.top, self.left = min(self.top, other.top), min(self.left, other.left)
        self.bottom, self.right = max(self.bottom, other.bottom), max(self.right, other.right)
        self.seed = min(self.seed, other.seed)


@dataclass
class _Forest:
    """Components that turn out to be one are merged."""

    parents: list[int] = field(default_factory=list)
    found: list[Component] = field(default_factory=list)

    def add(self, component: Component) -> int:
        self.parents.append(len(self.parents))
        self.found.append(component)
        return self.parents[-1]

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def merge(self, one: int, other: int) -> None:
        one, other = sorted((self.root(one), self.root(other)))
        if one != other:
            self.parents[other] = one
            self.found[one].include(self.found[other])


def find_components(mask: Callable[[int, int], np.ndarray], rows: int, chunk: int = CHUNK) -> list[Component]:
    """The components of a mask, from top to bottom.

    Args:
        mask: gives rows of it from a first to a last, exclusive: (n, W) bool.
        rows: how many it has.
        chunk: rows at a time.

    Examples:
        >>> import numpy as np
        >>> from crackcam.evaluation.components import find_components
        >>> mask = np.eye(6, dtype=bool)
        >>> find_components(lambda top, bottom: mask[top:bottom], rows=6, chunk=2)
        [Component(top=0, left=0, bottom=6, right=6, seed=(0, 0))]
    """
    forest = _Forest()
    before: np.ndarray | None = None  # the numbers in the last row of the chunk before; -1: none
    for top in range(0, rows, chunk):
        part = mask(top, min(rows, top + chunk)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        numbers = np.full(count, -1)
        places = np.flatnonzero(labels)
        known, first = np.unique(labels.ravel()[places], return_index=True)
        for label, place in zip(known.tolist(), places[first].tolist(), strict=True):
            x, y, width, height = (int(value) for value in stats[label, :4])
            row, column = divmod(place, part.shape[1])
            numbers[label] = forest.add(Component(top + y, x, top + y + height, x + width, (top + row, column)))
        if before is not None:
            _merge_rows(forest, before, numbers[labels[0]])
        before = numbers[labels[-1]]
    roots = (component for number, component in enumerate(forest.found) if forest.root(number) == number)
    return sorted(roots, key=lambda component: component.seed)


def _merge_rows(forest: _Forest, above: np.ndarray, below: np.ndarray) -> None:
    """Merge what touches in two rows of numbers, also at corners."""
    for one, other in ((above, below), (above[1:], below[:-1]), (above[:-1], below[1:])):
        touching = (one >= 0) & (other >= 0)
        for pair in np.unique(np.stack([one[touching], other[touching]]), axis=1).T.tolist():
            forest.merge(*pair)


def component_mask(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The one component of a mask, (H, W) bool, that a place belongs to."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels == labels[seed]
