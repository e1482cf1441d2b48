"""How an image becomes the input of a model, and where in the image that input lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

GREY = (124, 116, 104)  # the mean of ImageNet
LONG = 16  # a picture so many times as long as wide is not scaled as a whole to cut out its middle


class Geometry(NamedTuple):
    """How a picture becomes the network's square input, and where in the picture that square lies.

    Attributes:
        size: side of the square.
        resize: length that the shorter side is brought to before the centre is cropped, as ImageNet networks expect;
            None: the whole picture is squashed.
        interpolation: a filter of Pillow, by name.
        max_scale: the picture keeps its proportions and is enlarged at most so much; a grey frame fills the square.
            None: as ``resize`` says.
    """

    size: int
    resize: int | None = None
    interpolation: str = "bilinear"
    max_scale: float | None = None

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (size, size, 3) uint8."""
        if self.max_scale is not None:
            rows, columns = self.inside(*picture.shape[:2])
            height, width = rows.stop - rows.start, columns.stop - columns.start
            if picture.shape[:2] != (height, width):
                picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
            return pad_to(picture, self.size, self.size)
        if self.resize is None:
            return squash(picture, self.size)
        height, width = self._resized(*picture.shape[:2])
        image, filter_ = Image.fromarray(picture), Image.Resampling[self.interpolation.upper()]
        top, left = self._corner(height, width)
        if max(height, width) > LONG * self.resize:  # a strip of one row would become millions of columns
            down, across = picture.shape[0] / height, picture.shape[1] / width
            right, bottom = min(width, left + self.size), min(height, top + self.size)
            box = (max(0, left) * across, max(0, top) * down, right * across, bottom * down)
            return np.asarray(image.resize((self.size, self.size), filter_, box))
        image = image.resize((width, height), filter_)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def times(self, scale: float) -> Geometry:
        """The same view of a picture in so many times the size."""
        return Geometry(
            round(scale * self.size),
            self.resize and round(scale * self.resize),
            self.interpolation,
            self.max_scale and scale * self.max_scale,
        )

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the square that show a picture of that size, or what is seen of it."""
        if self.max_scale is None:
            return slice(0, self.size), slice(0, self.size)
        scale = min(self.max_scale, self.size / max(height, width))
        sides = [min(self.size, max(1, round(scale * side))) for side in (height, width)]
        rows, columns = (slice(start, start + side) for side in sides for start in [(self.size - side) // 2])
        return rows, columns

    def seen(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a picture of that size that reach the network."""
        if self.resize is None:
            return slice(0, height), slice(0, width)
        resized = self._resized(height, width)
        return tuple(  # type: ignore[return-value]
            slice(max(0, round(start * side / large)), min(side, round((start + self.size) * side / large)))
            for side, large, start in zip((height, width), resized, self._corner(*resized), strict=True)
        )

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """As torchvision resizes: the longer side is rounded down."""
        short = self.resize or self.size
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        return round((height - self.size) / 2), round((width - self.size) / 2)


def pad_to(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture (H, W, 3), no larger than that, in the middle of a grey frame: (height, width, 3).

    Grey is the mean of ImageNet, 0 to a network: as if there were nothing, where mirror images would make new lines.
    """
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    filled = np.full((height, width, 3), GREY, np.uint8)
    filled[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return filled


def squash(picture: np.ndarray, size: int) -> np.ndarray:
    """The whole picture, squashed to (size, size, 3) uint8: the network's view of it."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
