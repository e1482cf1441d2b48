"""The evidence of an image that does not fit in memory: decided strip by strip, and kept in a file.

Places without data, outside an orthomosaic's outline say, have an evidence of minus infinity: they count neither in the
decision nor in its area, and their probability is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import SHARPNESS, Multiscale
from crackcam.models.tile_layout import Layout
from crackcam.models.tiles import calibrated_for_area, evidence_strips, map_stride

CHUNK = 256  # rows that are read at a time
NOTHING = -math.inf  # evidence of places without data


class WindowedImage(Protocol):
    """An image that is read by windows."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""

    def valid(self, top: int, left: int, height: int, width: int, step: int = 1) -> np.ndarray:
        """Where there is data, (height, width) bool; of one pixel in each square of that step."""


def masked_strips(
    network: LoadedModel, image: WindowedImage, batch_size: int = 32, first: int = 0
) -> Iterator[torch.Tensor]:
    """As :func:`crackcam.models.tiles.evidence_strips`, with :data:`NOTHING` where there is no data."""
    stride = map_stride(network)
    sizes = Layout.of(image.height, image.width, network.preprocessing.size).strip_rows(stride)
    strips = evidence_strips(network, image.read, image.height, image.width, batch_size, first)
    for number, strip in enumerate(strips, first):
        top, rows = stride * sum(sizes[:number]), sizes[number]
        valid = image.valid(top, 0, min(stride * rows, image.height - top), image.width, stride)
        yield strip.masked_fill(~torch.from_numpy(valid), NOTHING)


def pooled_probabilities(network: LoadedModel, strips: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """Probabilities (classes,) float32 of an image from the strips of its evidence, (classes, rows, columns) each.

    As :func:`crackcam.models.tiles.tiled_probabilities` of the whole map. None where there is no data.
    """
    model = network.model
    assert isinstance(model, Multiscale)
    highest = torch.full((len(network.card.classes),), -math.inf, dtype=torch.float64)
    weight, total, places = torch.zeros_like(highest), torch.zeros_like(highest), 0
    for strip in strips:
        found = strip.double().flatten(1)
        found = found[:, found[0] > NOTHING]
        if not found.shape[1]:
            continue
        peak = torch.maximum(highest, found.amax(dim=1))
        faded, weights = (SHARPNESS * (highest - peak)).exp(), (SHARPNESS * (found - peak[:, None])).exp()
        weight, total = weight * faded + weights.sum(dim=1), total * faded + (weights * found).sum(dim=1)
        highest, places = peak, places + found.shape[1]
    if not places:
        return None
    with torch.inference_mode():
        logits = (model.scale.cpu() * (total / weight) + model.bias.cpu()).float()
        frames = map_stride(network) ** 2 * places / network.preprocessing.size**2
        return calibrated_for_area(logits, frames, model.class_mask.cpu(), network.card.area).softmax(0)


@dataclass(frozen=True)
class EvidenceFile:
    """The evidence of an image in a file, float32, row by row: what is complete of it outlives a kill.

    Attributes:
        path: the file.
        network: whose evidence it is.
        height, width: of the image.
    """

    path: Path
    network: LoadedModel
    height: int
    width: int

    @cached_property
    def stride(self) -> int:
        """Output stride of the map in pixels."""
        return map_stride(self.network)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return math.ceil(self.height / self.stride), math.ceil(self.width / self.stride)

    @cached_property
    def _classes(self) -> list[int]:
        """The classes that are kept: those whose map is not masked out."""
        assert isinstance(self.network.model, Multiscale)
        return torch.nonzero(self.network.model.class_mask.cpu())[:, 0].tolist()

    @property
    def _row_bytes(self) -> int:
        return 4 * len(self._classes) * self.shape[1]

    def complete(self, image: WindowedImage, batch_size: int = 32) -> None:
        """Compute the strips that the file lacks."""
        sizes = Layout.of(self.height, self.width, self.network.preprocessing.size).strip_rows(self.stride)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            rows, known = file.tell() // self._row_bytes, 0
            while known < len(sizes) and sum(sizes[: known + 1]) <= rows:
                known += 1
            file.truncate(sum(sizes[:known]) * self._row_bytes)
            if known == len(sizes):
                return
            for strip in masked_strips(self.network, image, batch_size, known):
                file.write(strip[self._classes].permute(1, 0, 2).contiguous().numpy().tobytes())
                file.flush()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """(rows, kept classes, columns) float32, of the rows from ``top`` to ``bottom``, which may lie outside."""
        top, bottom = max(0, top), min(self.shape[0], bottom)
        count = (bottom - top) * self._row_bytes // 4
        found = np.fromfile(self.path, np.float32, count, offset=top * self._row_bytes)
        return found.reshape(bottom - top, len(self._classes), self.shape[1])

    def window(self, target: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """The probability of a class in a window of the map, (rows, columns) float32; of none that is masked out."""
        index = self._classes.index(target)
        parts = [
            self.rows(start, min(bottom, start + CHUNK))[:, index, left:right] for start in range(top, bottom, CHUNK)
        ]
        return torch.from_numpy(np.concatenate(parts)).sigmoid().numpy()

    def chunks(self) -> Iterator[torch.Tensor]:
        """The evidence of all classes, (classes, rows, columns) each."""
        for top in range(0, self.shape[0], CHUNK):
            kept = torch.from_numpy(self.rows(top, top + CHUNK))
            found = torch.zeros(len(self.network.card.classes), kept.shape[0], kept.shape[2])
            found.masked_fill_(kept[:, 0] == NOTHING, NOTHING)
            found[self._classes] = kept.permute(1, 0, 2)
            yield found
