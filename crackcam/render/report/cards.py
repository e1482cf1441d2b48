"""The images of a report: each with its heatmaps, numbers and the outline of its mask, encoded as data URIs."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import Colormap
from PIL import Image

from crackcam.data import images as image_files
from crackcam.errors import UserError
from crackcam.render.overlays import MASKED, OPACITY, PROBABILITY, RELATIVE, draw_mask_outline, opacity, thumbnail
from crackcam.render.report.numbers import finite_numbers

FEW = 300  # up to so many images are shown larger
SIDES, MAP_SIDES = (480, 256), (160, 96)  # pixels of the longer side of images and heatmaps: where few, where many
MAP_SIDE = MAP_SIDES[0]
LEVELS = 64  # of a heatmap: a third of the bytes of 256, and no eye tells them apart
KNOWN = ("file", "true", "predicted", "probabilities", "target", "maps", "tiles")  # keys with a place of their own
REGIONS = (("upper left", "top", "upper right"), ("left", "middle", "right"), ("lower left", "bottom", "lower right"))


@dataclass(frozen=True)
class Heatmaps:
    """The heatmaps of a report.

    Attributes:
        by_method: of each method, one map for each image, at most :data:`MAP_SIDE` pixels long: (h, w) uint8; or
            (h, w, 3) uint8, a signed image in colors of its own, grey where it is 0.
        colormap: of the heatmaps.
        probabilities: methods whose values are probabilities, not relative to the maximum of each image.
    """

    by_method: Mapping[str, Sequence[np.ndarray]]
    colormap: Colormap
    probabilities: frozenset[str] = frozenset()

    def legend(self, method: str) -> tuple[str, str]:
        """The meaning of the lowest and the highest color; of signed images ("", what their colors mean)."""
        if any(heatmap.ndim == 3 for heatmap in self.by_method[method][:1]):
            return "", "Signed image in its own colors, not a heatmap; grey is zero."
        return ("0 %", f"100 %: {PROBABILITY}") if method in self.probabilities else ("low", f"high, {RELATIVE}")


class Layer(NamedTuple):
    """A heatmap over an image: its method, a data URI, a description in words, and numbers about it."""

    method: str
    uri: str
    description: str
    numbers: dict[str, float]


class Card(NamedTuple):
    """One image of a page.

    Attributes:
        row: of the document's ``pictures``.
        photo: the image as a data URI.
        size: its width and height, in pixels.
        layers: the heatmaps.
        outline: of the mask, as a data URI; empty where there is none.
    """

    row: dict
    photo: str
    size: tuple[int, int]
    layers: list[Layer]
    outline: str

    @property
    def name(self) -> str:
        return Path(self.row["file"]).name

    @property
    def incorrect(self) -> bool:
        return is_incorrect(self.row)

    @property
    def confidence(self) -> float:
        return confidence(self.row)

    @property
    def numbers(self) -> dict[str, float]:
        return finite_numbers(self.row, KNOWN)

    @property
    def map_numbers(self) -> dict[str, dict[str, float]]:
        """By method."""
        return {layer.method: layer.numbers for layer in self.layers}

    @property
    def empty(self) -> list[str]:
        """The methods whose heatmap is zero everywhere."""
        return [name for name, of_method in self.row.get("maps", {}).items() if of_method.get("max", 1) <= 0]


def is_incorrect(row: dict) -> bool:
    """Whether a prediction is known to be incorrect."""
    return row["true"] is not None and row["predicted"] != row["true"]


def confidence(row: dict) -> float:
    """The probability of the predicted class."""
    return row["probabilities"][row["predicted"]]


@dataclass(frozen=True)
class Sources:
    """What the cards of all pages are made from.

    Attributes:
        rows: the document's ``pictures``.
        images: (H, W, 3) uint8, one for each row; None: their files are read again.
        heatmaps: of the images, if there are any.
        masks: (H, W) bool, one for each image; or none.
    """

    rows: list[dict]
    images: Sequence[np.ndarray] | None = None
    heatmaps: Heatmaps | None = None
    masks: Sequence[np.ndarray] = ()

    @property
    def sides(self) -> tuple[int, int]:
        """Longer side of images and of heatmaps, in pixels."""
        many = len(self.rows) > FEW
        return SIDES[many], MAP_SIDES[many]

    def cards(self, chosen: list[int]) -> list[Card]:
        """The cards of some rows, in order.

        Raises:
            UserError: a file cannot be read any more.
        """
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self._card, chosen, self._read(chosen)))

    def _read(self, chosen: list[int]) -> Iterator[np.ndarray]:
        if self.images is not None:
            yield from (self.images[i] for i in chosen)
            return
        paths = [Path(self.rows[i]["file"]) for i in chosen]
        for item in image_files.read_images(paths, functools.partial(thumbnail, side=self.sides[0])):
            if isinstance(item, image_files.UnreadableImage):
                raise UserError(f"{item.path} was readable when the run started, and no longer is: {item.reason}")
            yield item.pixels

    def _card(self, i: int, image: np.ndarray) -> Card:
        side, map_side = self.sides
        small, layers = thumbnail(image, side), []
        if self.heatmaps:
            palette = color_table(self.heatmaps.colormap)
            for method, heatmaps in self.heatmaps.by_method.items():
                numbers = finite_numbers(self.rows[i].get("maps", {}).get(method, {}), ("max",))
                layers.append(make_layer(method, thumbnail(heatmaps[i], map_side), palette, numbers))
        outline = _outline(self.masks[i]) if len(self.masks) else ""
        return Card(self.rows[i], _webp(small), small.shape[1::-1], layers, outline)


def make_layer(method: str, heatmap: np.ndarray, palette: np.ndarray, numbers: dict[str, float]) -> Layer:
    """Encode a heatmap (h, w) uint8 by a color table, or a signed image (h, w, 3) uint8 as it is."""
    if heatmap.ndim == 3:
        return Layer(method, _webp(heatmap), f"signed image by {method}", numbers)
    uri = _png(np.rint(heatmap / 255 * (LEVELS - 1)).astype(np.uint8), palette)
    return Layer(method, uri, f"heatmap by {method}, {describe_peak(heatmap)}", numbers)


def describe_peak(heatmap: np.ndarray) -> str:
    """Where a heatmap (h, w) has its maximum, in words, for screen readers."""
    if not heatmap.any():
        return "zero everywhere"
    places = np.argwhere(heatmap == heatmap.max()).mean(axis=0) / heatmap.shape
    row, column = (min(int(3 * place), 2) for place in places)
    return f"maximum at the {REGIONS[row][column]}"


def color_table(colormap: Colormap) -> np.ndarray:
    """(LEVELS, 4) uint8: the colors of a heatmap, and how much of the image each covers, as in the figures."""
    values = np.linspace(0, 1, LEVELS)
    return np.rint(np.column_stack([colormap(values)[:, :3], opacity(values) / OPACITY]) * 255).astype(np.uint8)


def legend_bar(colormap: Colormap) -> str:
    """The colors from low to high, one pixel high, as a data URI."""
    return _png(np.arange(LEVELS, dtype=np.uint8)[None], color_table(colormap))


def _outline(mask: np.ndarray) -> str:
    scale = SIDES[0] / max(mask.shape)
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    line = draw_mask_outline(np.zeros((height, width, 3), np.uint8), mask)[..., 1] > 0
    return _png(line.astype(np.uint8), np.array([[0, 0, 0, 0], [*MASKED, 255]], np.uint8))


def _webp(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=82, method=2)
    return _uri("webp", file)


def _png(indices: np.ndarray, palette: np.ndarray) -> str:
    image, file = Image.fromarray(indices), io.BytesIO()
    image.putpalette(palette[:, :3].tobytes())
    image.save(file, "PNG", transparency=palette[:, 3].tobytes())
    return _uri("png", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def sortable(cards: list[Card]) -> list[str]:
    """Names of numbers that differ between images."""
    values: dict[str, set[float]] = {}
    for card in cards:
        for found in (card.numbers, *card.map_numbers.values()):
            for name, value in found.items():
                values.setdefault(name, set()).add(value)
    return [name for name, of_name in values.items() if len(of_name) > 1]


def stage(sizes: Iterable[tuple[int, int]]) -> str:
    """The shape in which images are shown, that of most of them: "wide", "tall" or "square"."""
    shape = float(np.median([width / height for width, height in sizes] or [1]))
    return "wide" if shape > 1.15 else "tall" if shape < 0.87 else "square"
