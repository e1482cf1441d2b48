"""Where the tiles of a large image lie, and how much each of them counts at each place.

The tiles begin and end at multiples of :data:`COARSEST`, the output stride of the coarsest stage, so that every tile
sees the image on the same grid, and the blended map equals that of the image in one piece but for what the network sees
of the edges of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from crackcam.models.multiscale import COARSEST
from crackcam.preprocessing import GREY

TILE = 2.0  # longest side of a tile as a multiple of the network's size
OVERLAP = 3 / 8  # of two neighbouring tiles, at least, as a multiple of the network's size
MARGIN = 1 / 4  # of an overlap, at the edge of a tile, that does not count

# Top, left, height and width of a window inside an image -> (height, width, 3) uint8 RGB.
WindowReader = Callable[[int, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Axis:
    """The tiles along one side of an image: equally long, evenly spread, as few as the limits allow.

    Attributes:
        length: of the side, a multiple of ``grid``.
        longest: tile that is allowed.
        overlap: of neighbours, at least.
        grid: starts and lengths of tiles are multiples of it.

    Examples:
        >>> from crackcam.models.tile_layout import Axis
        >>> axis = Axis(length=3008, longest=896, overlap=128, grid=32)
        >>> axis.tile, axis.starts
        (864, [0, 704, 1408, 2144])
    """

    length: int
    longest: int
    overlap: int
    grid: int = 1

    @cached_property
    def _count(self) -> int:
        if self.length <= self.longest:
            return 1
        return math.ceil((self.length - self.overlap) / (self.longest // self.grid * self.grid - self.overlap))

    @cached_property
    def tile(self) -> int:
        """Length of a tile."""
        whole = self.length + (self._count - 1) * self.overlap
        return math.ceil(whole / (self._count * self.grid)) * self.grid

    @cached_property
    def starts(self) -> list[int]:
        """First pixel of each tile."""
        free = (self.length - self.tile) // self.grid
        return [free * number // max(1, self._count - 1) * self.grid for number in range(self._count)]

    def weights(self, number: int, stride: int = 1) -> torch.Tensor:
        """How much a tile counts at each of its places, (tile / stride,) float32; over all tiles they sum to 1.

        Where it overlaps with a neighbour, its outer quarter does not count, where the network sees an edge that is not
        in the image; from there one tile fades into the other.
        """
        start = self.starts[number] // stride
        return self._ramps(number, stride) / self._total(stride)[start : start + self.tile // stride]

    def _ramps(self, number: int, stride: int) -> torch.Tensor:
        """Rising behind the start of a tile, falling before its end; 1 at an edge of the image."""
        place = (torch.arange(self.tile // stride) + 0.5) * stride
        before, after = ([None, *self.starts][number], [*self.starts, None][number + 1])
        start, ramps = self.starts[number], torch.ones(len(place))
        if before is not None:
            ramps = torch.minimum(ramps, self._rise(place, before + self.tile - start))
        if after is not None:
            ramps = torch.minimum(ramps, self._rise(self.tile - place, start + self.tile - after))
        return ramps

    @staticmethod
    def _rise(place: torch.Tensor, overlap: int) -> torch.Tensor:
        return ((place / overlap - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)

    def _total(self, stride: int) -> torch.Tensor:
        total = torch.zeros(self.length // stride)
        for number, start in enumerate(self.starts):
            total[start // stride : (start + self.tile) // stride] += self._ramps(number, stride)
        return total


@dataclass(frozen=True)
class Layout:
    """The tiles of an image, and its place among the grey that fills them up.

    Attributes:
        height, width: of the image.
        rows, columns: the tiles.
        top, left: where the image begins in them.
    """

    height: int
    width: int
    rows: Axis
    columns: Axis
    top: int
    left: int

    @classmethod
    def of(cls, height: int, width: int, size: int) -> Layout:
        """For an image of that size, and a network of that one."""
        sides = [math.ceil(max(side, size) / COARSEST) * COARSEST for side in (height, width)]
        longest, overlap = round(TILE * size), math.ceil(OVERLAP * size / COARSEST) * COARSEST
        rows, columns = (Axis(side, longest, overlap, COARSEST) for side in sides)
        top, left = ((side - own) // 2 // COARSEST * COARSEST for side, own in zip(sides, (height, width), strict=True))
        return cls(height, width, rows, columns, top, left)

    @property
    def tiles(self) -> int:
        """Their number."""
        return len(self.rows.starts) * len(self.columns.starts)

    def strip_rows(self, stride: int) -> list[int]:
        """How many rows of the map of the image, at an output stride, each row of tiles completes."""
        ends = [(start - self.top) // stride for start in [*self.rows.starts[1:], self.rows.length]]
        ends = [min(end, math.ceil(self.height / stride)) for end in ends]
        return [end - begin for begin, end in pairwise([0, *ends])]

    def read(self, reader: WindowReader, row: int, column: int) -> np.ndarray:
        """The pixels of a tile, (H, W, 3) uint8: grey beyond the edges of the image, as in padding."""
        first = (self.rows.starts[row] - self.top, self.columns.starts[column] - self.left)
        sides, limits = (self.rows.tile, self.columns.tile), (self.height, self.width)
        start = [max(0, begin) for begin in first]
        stop = [min(limit, begin + side) for limit, begin, side in zip(limits, first, sides, strict=True)]
        window = reader(start[0], start[1], stop[0] - start[0], stop[1] - start[1])
        if window.shape[:2] == sides:
            return window
        tile = np.full((*sides, 3), GREY, np.uint8)
        y, x = (at - begin for at, begin in zip(start, first, strict=True))
        tile[y : y + window.shape[0], x : x + window.shape[1]] = window
        return tile
