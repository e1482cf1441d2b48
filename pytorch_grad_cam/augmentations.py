"""Test-time augmentations of ``aug_smooth=True``: with and without horizontal flip, times a factor of 0.9, 1 or 1.1."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Augmentation:
    """A horizontal flip and a factor, with the interface of the transforms of the package ttach.

    Attributes:
        flip: whether the image is mirrored left to right.
        factor: multiplied with all input values.
    """

    flip: bool
    factor: float

    def augment_image(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, *spatial), augmented."""
        return (images.flip(-1) if self.flip else images) * self.factor

    def deaugment_mask(self, heatmaps: torch.Tensor) -> torch.Tensor:
        """Heatmaps (N, 1, *spatial) of augmented images, mapped back onto the original ones."""
        return heatmaps.flip(-1) if self.flip else heatmaps


AUGMENTATIONS = [Augmentation(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1)]
