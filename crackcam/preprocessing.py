"""How an image becomes the input of a model, and where in the image that input lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (124, 116, 104)  # the mean of ImageNet in uint8
ELONGATED = 16  # aspect ratio above which an image is not resized as a whole to crop its centre

Window = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square, normalised input of a model, and where in the image that square lies.

    By default the whole image is squashed to the square.

    Args:
        size: side of the square in pixels.
        resize: the shorter side is brought to this length before the centre is cropped, as ImageNet models expect;
            None: no crop.
        interpolation: a resampling filter of Pillow, by name.
        max_scale: the image keeps its aspect ratio, is enlarged at most this many times, and is padded with grey; None:
            it is squashed, or cropped as ``resize`` says.
        mean: of the normalisation, for values in 0..1, one for each channel of RGB.
        std: likewise.

    Examples:
        >>> import numpy as np
        >>> import crackcam
        >>> crackcam.Preprocessing(size=64).apply(np.zeros((120, 160, 3), np.uint8)).shape
        (64, 64, 3)
    """

    size: int = 224
    resize: int | None = None
    interpolation: str = "bilinear"
    max_scale: float | None = None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (size, size, 3) uint8."""
        if self.max_scale is not None:
            rows, columns = self.inside(*image.shape[:2])
            height, width = rows.stop - rows.start, columns.stop - columns.start
            if image.shape[:2] != (height, width):
                image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            return pad_to(image, self.size, self.size)
        if self.resize is None:
            return squash(image, self.size)
        return self._crop(image)

    def _crop(self, image: np.ndarray) -> np.ndarray:
        height, width = self._resized(*image.shape[:2])
        pillow, resampling = Image.fromarray(image), Image.Resampling[self.interpolation.upper()]
        top, left = self._corner(height, width)
        if max(height, width) > ELONGATED * min(height, width):  # one row would become millions of columns
            down, across = image.shape[0] / height, image.shape[1] / width
            right, bottom = min(width, left + self.size), min(height, top + self.size)
            box = (max(0, left) * across, max(0, top) * down, right * across, bottom * down)
            return np.asarray(pillow.resize((self.size, self.size), resampling, box))
        pillow = pillow.resize((width, height), resampling)
        return np.asarray(pillow.crop((left, top, left + self.size, top + self.size)))

    def at_scale(self, scale: float) -> Preprocessing:
        """The same view of an image at ``scale`` times the size."""
        return replace(
            self,
            size=round(scale * self.size),
            resize=self.resize and round(scale * self.resize),
            max_scale=self.max_scale and scale * self.max_scale,
        )

    def inside(self, height: int, width: int) -> Window:
        """Rows and columns of the square that show an image of that size; the rest is padding."""
        if self.max_scale is None:
            return slice(0, self.size), slice(0, self.size)
        scale = min(self.max_scale, self.size / max(height, width))
        sides = [min(self.size, max(1, round(scale * side))) for side in (height, width)]
        rows, columns = (slice(start, start + side) for side in sides for start in [(self.size - side) // 2])
        return rows, columns

    def seen(self, height: int, width: int) -> Window:
        """Rows and columns of an image of that size that reach the model; the rest is cropped away."""
        if self.resize is None:
            return slice(0, height), slice(0, width)
        resized = self._resized(height, width)
        rows, columns = (
            slice(max(0, round(start * side / large)), min(side, round((start + self.size) * side / large)))
            for side, large, start in zip((height, width), resized, self._corner(*resized), strict=True)
        )
        return rows, columns

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """As torchvision resizes: the longer side is rounded down."""
        short = self.resize or self.size
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        return round((height - self.size) / 2), round((width - self.size) / 2)

    def normalize(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(N, 3, H, W) uint8 -> normalised (N, 3, H, W) float32 on the device, channels last."""
        import torch

        # bytes travel to the device; in place: batches are large, and each copy is a pass through memory
        scaled = pixels.to(device).contiguous(memory_format=torch.channels_last).float().div_(255)
        mean, std = self._constants(device)
        return scaled.sub_(mean).div_(std)

    def denormalize(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`normalize`: the nearest (N, 3, H, W) uint8."""
        import torch

        mean, std = self._constants(inputs.device)
        return ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def _constants(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        mean, std = (torch.tensor(list(values), device=device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return mean, std


def pad_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image (H, W, 3), no larger than that, centred on grey: (height, width, 3).

    Grey is the mean of ImageNet, 0 to a model: no signal, where reflected images would show new lines.
    """
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    padded = np.full((height, width, 3), GREY, np.uint8)
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    return padded


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image (H, W, 3) uint8, squashed to (size, size, 3) uint8."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))
