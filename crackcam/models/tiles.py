"""Large images, read in overlapping tiles at their own resolution.

An image that the network would see reduced more than :data:`LARGE` times loses its thin cracks. Where the map of a
multiscale head says how much each place supports a class, and one class is the absence of the others, such an image is
read in tiles instead: their maps, blended where they overlap, are the *evidence* of the whole image
(:func:`read_evidence`), and the decision is pooled from it as from the map of a small image
(:func:`tiled_probabilities`). Predicted class and heatmap therefore come from the same numbers.

Where the tiles lie: :class:`crackcam.models.tile_layout.Layout`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from crackcam.models.loaded import LoadedModel, stack
from crackcam.models.multiscale import COARSEST, Multiscale
from crackcam.models.tile_layout import Layout, WindowReader
from crackcam.preprocessing import GREY
from crackcam.progress import Progress

logger = logging.getLogger(__name__)

LARGE = 2.0  # times that a side would be reduced; of more, cracks of 2 pixels are lost
EMPTY = -20.0  # evidence of tiles that show nothing
PROBE = 4 * COARSEST  # pixels: side of the square that shows the output stride
FIRST_MESSAGE = 30.0  # seconds; off a terminal, tiles are counted of images that take longer
TILE_PIXELS = 896**2  # of the tiles that a CPU computes at a time: one of a network of 448 px


# -- which images ----------------------------------------------------------------------------------------------------


def reads_tiles(network: LoadedModel) -> bool:
    """Whether a network reads large images in tiles: its map is local, and one class is the absence of the others.

    In other networks, of dogs and cats say, what an image shows fills it: its parts tell less than the whole.
    """
    local = isinstance(network.model, Multiscale) and network.card.resize is None
    return network.tiled and local and bool(network.card.absences)


def is_large(network: LoadedModel, height: int, width: int) -> bool:
    """Whether a network reads an image of that size in tiles."""
    return reads_tiles(network) and max(height, width) > LARGE * network.preprocessing.size


def tile_count(network: LoadedModel, height: int, width: int) -> int:
    """The number of tiles that an image of that size is read in; 1 for an image in one piece."""
    return Layout.of(height, width, network.preprocessing.size).tiles if is_large(network, height, width) else 1


# -- evidence --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence of a whole image, assembled from its tiles.

    Attributes:
        map: (classes, h, w) float32 on the CPU, signed.
        stride: of the map, in pixels; it may end a little behind the image.
        height, width: of the image.
        tiles: their number.
    """

    map: torch.Tensor
    stride: int
    height: int
    width: int
    tiles: int

    def probability(self, network: LoadedModel, target: int) -> torch.Tensor:
        """The map of a class as a probability, over exactly the image: (h, w) float32; 0 where it is masked out."""
        mask = _multiscale(network.model).class_mask[target].item()
        return fit(self.map[target].sigmoid() * mask, self.height, self.width, self.stride)


def fit(heatmap: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """A map (h, w) that ends a little behind an image, resampled to end where it does."""
    rows, columns = heatmap.shape
    down, across = height / (stride * rows), width / (stride * columns)
    if down == across == 1:
        return heatmap
    theta = torch.tensor([[[across, 0, across - 1], [0, down, down - 1]]])
    grid = F.affine_grid(theta, [1, 1, rows, columns], align_corners=False)
    return F.grid_sample(heatmap[None, None], grid, padding_mode="border", align_corners=False)[0, 0]


def read_evidence(network: LoadedModel, image: np.ndarray, batch_size: int = 32) -> Evidence:
    """Read an image in tiles.

    Args:
        network: with a multiscale head.
        image: (H, W, 3) uint8, of any size.
        batch_size: images of the network's size that may be computed at a time.
    """

    def reader(top: int, left: int, height: int, width: int) -> np.ndarray:
        return image[top : top + height, left : left + width]

    height, width = image.shape[:2]
    layout = Layout.of(height, width, network.preprocessing.size)
    stride = map_stride(network)
    strips = list(_strips(network, reader, layout, stride, batch_size))
    return Evidence(torch.cat(strips, dim=1), stride, height, width, layout.tiles)


def evidence_strips(
    network: LoadedModel, reader: WindowReader, height: int, width: int, batch_size: int = 32, first: int = 0
) -> Iterator[torch.Tensor]:
    """Read an image that need not fit in memory in tiles, and give its evidence from top to bottom.

    Args:
        network: with a multiscale head.
        reader: reads a window of the image.
        height, width: of the image.
        batch_size: as in :func:`read_evidence`.
        first: number of strips that are known: the ones behind them are given, bitwise as without it.

    Yields:
        (classes, rows, columns) float32 on the CPU, at the output stride of the network's map; as many rows as a row of
        tiles completes. Below each other they are the map of the image.
    """
    layout = Layout.of(height, width, network.preprocessing.size)
    yield from _strips(network, reader, layout, map_stride(network), batch_size, first)


def map_stride(network: LoadedModel) -> int:
    """The output stride of a network's evidence in pixels: that of a small square."""
    square = torch.zeros(1, 3, PROBE, PROBE, dtype=torch.uint8)
    with torch.inference_mode():
        return _stride(PROBE, _multiscale(network.model).evidence(network.to_inputs(square)).shape[2])


def _stride(pixels: int, places: int) -> int:
    """Of a map with so many places along a side; some backbones have a place more or less than the quotient."""
    return 2 ** round(math.log2(pixels / places))


def _strips(
    network: LoadedModel, reader: WindowReader, layout: Layout, stride: int, batch_size: int, known: int = 0
) -> Iterator[torch.Tensor]:
    """As :func:`evidence_strips`, behind the known ones."""
    rows, sizes = layout.rows, layout.strip_rows(stride)
    following = [*rows.starts[1:], rows.length]
    left, columns = layout.left // stride, math.ceil(layout.width / stride)
    again = max(0, known - 1)  # the tiles before the first strip reach into it
    done = again * len(layout.columns.starts)
    begun: torch.Tensor | None = None  # the lower end of the row before, where the next one overlaps with it
    with Progress("reading tiles", layout.tiles, "tile", done=done, first=FIRST_MESSAGE) as progress:
        for row in range(again, len(rows.starts)):
            found = []
            for tile in _row_of_tiles(network, reader, layout, row, stride, batch_size):
                found.append(tile)
                progress.update()
            blended = _blend(layout, row, found, stride)
            if begun is not None:
                blended[:, : begun.shape[1]] += begun
            if row >= known:
                first = max(0, layout.top - rows.starts[row]) // stride
                yield blended[:, first : first + sizes[row], left : left + columns]
            begun = blended[:, (following[row] - rows.starts[row]) // stride :]


def _blend(layout: Layout, row: int, found: Sequence[torch.Tensor], stride: int) -> torch.Tensor:
    """The maps of a row of tiles, weighted and added up over all columns: (classes, h, w)."""
    down = layout.rows.weights(row, stride)[:, None]
    total = torch.zeros(*found[0].shape[:2], layout.columns.length // stride)
    for column, tile in enumerate(found):
        first = layout.columns.starts[column] // stride
        total[:, :, first : first + tile.shape[2]] += tile * down * layout.columns.weights(column, stride)
    return total


def _row_of_tiles(
    network: LoadedModel, reader: WindowReader, layout: Layout, row: int, stride: int, batch_size: int
) -> Iterator[torch.Tensor]:
    """The evidence of each tile of a row, (classes, h, w) float32 on the CPU."""
    at_once = tiles_at_once(network, layout.rows.tile * layout.columns.tile, batch_size)
    numbers = range(len(layout.columns.starts))
    shape = [side.tile // stride for side in (layout.rows, layout.columns)]
    nothing = EMPTY * _multiscale(network.model).class_mask.cpu()[:, None, None].expand(-1, *shape)
    for first in numbers[::at_once]:
        tiles = [layout.read(reader, row, column) for column in numbers[first : first + at_once]]
        shown = [bool((tile != GREY).any()) for tile in tiles]  # of orthomosaics, half of the tiles may be empty
        found = [tile for tile, has_pixels in zip(tiles, shown, strict=True) if has_pixels]
        evidence = iter(_evidence_of(network, stack(found)) if found else ())
        yield from (next(evidence) if has_pixels else nothing for has_pixels in shown)


def tiles_at_once(network: LoadedModel, area: int, batch_size: int) -> int:
    """How many tiles of that area, in pixels, are computed at a time, for images of the network's size that may be."""
    at_once = max(1, batch_size * network.preprocessing.size**2 // area)
    # on CPUs more are no faster, and eight tiles of a network of 448 px would take a gigabyte
    return min(at_once, max(1, TILE_PIXELS // area)) if network.runtime.device.type == "cpu" else at_once


def _evidence_of(network: LoadedModel, tiles: torch.Tensor) -> torch.Tensor:
    """Evidence (N, classes, H / stride, W / stride) float32 on the CPU of tiles (N, 3, H, W) uint8.

    Where a GPU has not enough memory, half of them are tried, and half of that.
    """
    try:
        with torch.inference_mode():
            found = network.evidence(tiles)
            stride = _stride(tiles.shape[2], found.shape[2])
            sides = [side // stride for side in tiles.shape[2:]]
            if list(found.shape[2:]) != sides:  # of backbones whose layers round otherwise
                found = F.interpolate(found, sides, mode="bilinear", align_corners=False)
        return found.cpu()
    except torch.OutOfMemoryError:
        if len(tiles) == 1:
            raise
    torch.cuda.empty_cache()
    return torch.cat([_evidence_of(network, part) for part in tiles.split(len(tiles) // 2)])


def _multiscale(model: nn.Module) -> Multiscale:
    assert isinstance(model, Multiscale)
    return model


# -- decision --------------------------------------------------------------------------------------------------------


def tiled_probabilities(network: LoadedModel, evidence: Evidence) -> torch.Tensor:
    """Probabilities (classes,) float32 on the CPU of an image that was read in tiles.

    Its logits are pooled from the whole map. A larger image has more places where a false alarm may arise, so what the
    checkpoint knows about the area is applied: :func:`calibrated_for_area`.
    """
    with torch.inference_mode():
        model = _multiscale(network.model)
        logits = model.pool(evidence.map[None].to(network.runtime.device))[0].float().cpu()
        if not network.card.area:
            _log_uncalibrated(network.source)
        frames = evidence.height * evidence.width / network.preprocessing.size**2
        return calibrated_for_area(logits, frames, model.class_mask.cpu(), network.card.area).softmax(0)


def calibrated_for_area(
    logits: torch.Tensor, frames: float | torch.Tensor, class_mask: torch.Tensor, area: Mapping[str, float]
) -> torch.Tensor:
    """Logits of images of any area, comparable to those of one frame.

    The largest of many values with an exponential tail grows with the logarithm of their number. So the logits of the
    classes that have a map get an offset that is proportional to the logarithm of the area, and the logarithm of the
    temperature is proportional to it too. One frame, and less, stays as it is.

    Args:
        logits: (..., classes).
        frames: area of the image as a multiple of the network's square.
        class_mask: (classes,), 0 for classes without a map.
        area: ``offset`` and ``log_temperature``, each for an area e times as large; empty: nothing is known.
    """
    growth = torch.as_tensor(frames, dtype=torch.float32).log().clamp(min=0)[..., None]
    shifted = logits + area.get("offset", 0.0) * growth * class_mask
    return shifted / (area.get("log_temperature", 0.0) * growth).exp()


@lru_cache
def _log_uncalibrated(source: str) -> None:
    """Once for each checkpoint."""
    logger.info("%s is not calibrated for large images read in tiles: the probabilities do not allow for area", source)


def predict_images(
    network: LoadedModel, images: Sequence[np.ndarray], batch_size: int = 32
) -> tuple[torch.Tensor, list[int]]:
    """Predict images of any size: large ones in tiles, the others together.

    Args:
        network: what predicts.
        images: (H, W, 3) uint8 each.
        batch_size: images at a time.

    Returns:
        Probabilities (N, classes) float32 on the CPU; and for each image the number of its tiles.
    """
    tiles = [tile_count(network, *image.shape[:2]) for image in images]
    small = [number for number, image in enumerate(images) if not is_large(network, *image.shape[:2])]
    found = torch.empty(len(images), len(network.card.classes))
    if small:
        pixels = network.to_pixels([images[number] for number in small])
        found[small] = torch.from_numpy(network.all_probabilities(pixels, batch_size))
    for number, image in enumerate(images):
        if is_large(network, *image.shape[:2]):
            found[number] = tiled_probabilities(network, read_evidence(network, image, batch_size))
    return found, tiles
