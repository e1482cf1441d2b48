"""Images on a figure, placed in inches: without axes, whose ticks take longer to make than the images to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Bbox, TransformedBbox

from crackcam.render.figures.layout import INCORRECT
from crackcam.text import shorten

NAMED_BOXES = 12  # more names than that hide an image
POINT = 1 / 72  # inches


class Box(NamedTuple):
    """A box on an image.

    Attributes:
        edges: (left, top, right, bottom) in pixels of the image.
        text: written on it.
        class_index: boxes of one class have one color, the same in all figures.
    """

    edges: tuple[float, float, float, float]
    text: str
    class_index: int


class Tile(NamedTuple):
    """One image of a grid.

    Attributes:
        image: (H, W, 3) uint8.
        name: file name.
        probabilities: by class name, highest first.
        true: class, where it is known.
        note: lines below the image.
        boxes: drawn on the image.
    """

    image: np.ndarray
    name: str
    probabilities: dict[str, float]
    true: str | None
    note: str = ""
    boxes: Sequence[Box] = ()

    @property
    def predicted(self) -> str:
        return next(iter(self.probabilities))

    @property
    def incorrect(self) -> bool:
        return self.true is not None and self.predicted != self.true


class PlacedImage:
    """An image on a figure, as large as a place allows, in its middle.

    Args:
        figure: that it is drawn on.
        image: (H, W, 3) uint8.
        place: in inches from the lower left corner of the figure.

    Attributes:
        figure: likewise.
        box: what the image covers of its place.
    """

    def __init__(self, figure: Figure, image: np.ndarray, place: Bbox) -> None:
        height, width = image.shape[:2]
        self.figure, self.box = figure, place.shrunk_to_aspect(height / width).anchored("C", place)
        self._pixels = Affine2D().translate(0.5, 0.5).scale(self.box.width / width, -self.box.height / height)
        self._pixels.translate(self.box.x0, self.box.y1)
        drawn = BboxImage(self._clip, interpolation="lanczos")
        drawn.set_data(image)
        figure.add_artist(drawn)

    @property
    def _clip(self) -> TransformedBbox:
        return TransformedBbox(self.box, self.figure.dpi_scale_trans)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write on the image, at fractions of its width and height from the lower left corner."""
        write(self.figure, self.box.x0 + x * self.box.width, self.box.y0 + y * self.box.height, text, **style)

    def write_above(self, text: str, pad: float, **style: Any) -> None:
        """Write above the image, some points away from it."""
        write(self.figure, (self.box.x0 + self.box.x1) / 2, self.box.y1 + pad * POINT, text, ha="center", **style)

    def frame(self, linewidth: float = 3) -> None:
        """Frame the image in red: its prediction is incorrect."""
        style = {"fill": False, "edgecolor": INCORRECT, "linewidth": linewidth, "zorder": 2.5}
        self.figure.add_artist(rectangle(self.figure, self.box, **style))

    def draw_boxes(self, boxes: Sequence[Box], small: bool = False) -> None:
        """Draw boxes, best first: the best are drawn last, on top, and only they are named.

        Args:
            boxes: at most 12 of them are named.
            small: name none of them.
        """
        transform = self._pixels + self.figure.dpi_scale_trans
        for rank, box in reversed(list(enumerate(boxes))):
            left, top, right, bottom = box.edges
            color = hsv_to_rgb((0.61803 * box.class_index % 1, 0.75, 0.95))  # neighbors in the list of classes differ
            line = 0.8 if small else 1.6
            style: dict[str, Any] = {"clip_box": self._clip, "transform": transform}
            corners = Bbox.from_extents(left, top, right, bottom)
            self.figure.add_artist(
                rectangle(self.figure, corners, fill=False, edgecolor=color, linewidth=line, **style)
            )
            if not small and rank < NAMED_BOXES:
                mark = {"facecolor": color, "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                style |= {"va": "bottom" if top > 12 else "top", "clip_on": True, "bbox": mark}
                self.figure.text(left, top, shorten(box.text, 24), fontsize=7, **style)


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write on a figure, at inches from its lower left corner."""
    figure.text(x, y, text, transform=figure.dpi_scale_trans, **style)


def rectangle(figure: Figure, box: Bbox, **style: Any) -> Rectangle:
    """A rectangle; ``box`` is in inches unless the style has a transform of its own."""
    return Rectangle(box.p0, box.width, box.height, **{"transform": figure.dpi_scale_trans, **style})
