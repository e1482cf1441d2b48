"""Torch data sets of synthetic images, alone or among photographs.

Only for data of cracks, which is recognised by its class names: those of the generated sample.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from crackcam.data.pixels import PixelSplit, without_padding
from crackcam.data.storage import allocate
from crackcam.data.synthetic.examples import UNKNOWN, generate_example
from crackcam.data.synthetic.noise import Rng
from crackcam.data.synthetic.sample import CLASSES, CRACK_FREE, CRACKED
from crackcam.errors import UserError
from crackcam.preprocessing import GREY

DEFAULT_FRACTION = 0.5  # of the training images, with a multiscale head


def synthetic_fraction(requested: float | None, classes: list[str], multiscale: bool) -> float:
    """Fraction of the training images to replace by synthetic ones.

    Args:
        requested: by the user, 0..1; None: :data:`DEFAULT_FRACTION` for a multiscale head on data of cracks, else 0.
        classes: class names in index order.
        multiscale: whether the network has a multiscale head.

    Raises:
        UserError: synthetic cracks are requested for other classes.
    """
    if requested and classes != CLASSES:
        raise UserError(
            f"--mix-sample generates synthetic cracks: it requires the classes {' and '.join(CLASSES)}, "
            f"not {', '.join(classes)}"
        )
    if requested is not None:
        return requested
    return DEFAULT_FRACTION if multiscale and classes == CLASSES else 0.0


class SyntheticImages(torch.utils.data.Dataset):
    """As many synthetic images as a split has images; each index always gives the same one.

    Args:
        split: its classes are those of the generated sample.
        seed: the same seed gives the same images.
        size: side of the images in pixels.

    Raises:
        UserError: the split lacks images of a class.
    """

    def __init__(self, split: PixelSplit, seed: int, size: int) -> None:
        self.pixels, self.seed, self.size = split.pixels, seed, size
        self.indices = [(split.labels == label).nonzero()[:, 0].numpy() for label in (CRACK_FREE, CRACKED)]
        for name, indices in zip(CLASSES, self.indices, strict=True):
            if not len(indices):
                raise UserError(
                    f"synthetic cracks cannot be generated for a split without {name}: add images of that class, "
                    "or pass --mix-sample 0"
                )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        """Image (3, size, size) uint8, label, and mask (size, size) uint8 as in :class:`.examples.Example`."""
        rng = np.random.default_rng([self.seed, index])
        image, mask, cracked = generate_example(rng, self.source_image, self.size)
        return torch.from_numpy(image).permute(2, 0, 1), int(cracked), torch.from_numpy(mask)

    def source_image(self, rng: Rng, label: int, side: int | None) -> np.ndarray:
        """The square middle of a random image of a class, (H, H, 3) uint8; resized to ``side`` if that is given."""
        pixels = without_padding(self.pixels[rng.choice(self.indices[label])]).permute(1, 2, 0).numpy()
        shorter = min(pixels.shape[:2])
        y, x = ((length - shorter) // 2 for length in pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels[y : y + shorter, x : x + shorter])
        if side is None:
            return pixels
        interpolation = cv2.INTER_AREA if len(pixels) > side else cv2.INTER_LINEAR
        return cv2.resize(pixels, (side, side), interpolation=interpolation)


class BlendedImages(torch.utils.data.Dataset):
    """Images of which a fraction is replaced by synthetic ones.

    The masks of the others are known to be empty where there is no crack, and unknown where there is one.

    Args:
        images: gives (3, size, size) uint8 and the label.
        synthetic: as many images, of the same size.
        fraction: of synthetic images, 0..1.
    """

    def __init__(self, images: torch.utils.data.Dataset, synthetic: SyntheticImages, fraction: float) -> None:
        self.images, self.synthetic = images, synthetic
        self.replaced = np.random.default_rng(synthetic.seed).random(len(synthetic)) < fraction

    def __len__(self) -> int:
        return len(self.synthetic)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        """As :meth:`SyntheticImages.__getitem__`."""
        if self.replaced[index]:
            return self.synthetic[index]
        image, label = self.images[index]
        if label == CRACK_FREE:
            image = shift_into_padding(np.random.default_rng([self.synthetic.seed, index]), image)
        mask = torch.full(image.shape[1:], 0 if label == CRACK_FREE else UNKNOWN, dtype=torch.uint8)
        return image, int(label), mask


def synthetic_split(split: PixelSplit, seed: int, size: int) -> PixelSplit:
    """As many synthetic images (size, size) as a split has images: for model selection and calibration."""
    images = SyntheticImages(split, seed, size)
    pixels, labels = allocate((len(images), 3, size, size)), torch.empty_like(split.labels)
    for index in range(len(images)):
        pixels[index], labels[index], _ = images[index]
    return PixelSplit(pixels, labels, split.paths)


def shift_into_padding(rng: Rng, image: torch.Tensor) -> torch.Tensor:
    """Shift an image (3, H, W) uint8 by up to half its size; grey fills the rest, as padding does at inference."""
    height, width = image.shape[1:]
    padded = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].repeat(1, 2 * height, 2 * width)
    padded[:, height // 2 : height // 2 + height, width // 2 : width // 2 + width] = image
    y, x = rng.integers(0, height + 1), rng.integers(0, width + 1)
    return padded[:, y : y + height, x : x + width]
