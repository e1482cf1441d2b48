"""Calibration of the decision on large images, which are read in tiles, for their area.

A larger image has more places where a false alarm may arise, and one crack is a smaller part of it. How the decision
allows for that, :func:`crackcam.models.tiles.calibrated_for_area`, is fitted to mosaics of validation images, and of
synthetic ones where training used them: half of them of images without the classes that have a map, half with one such
image among them.

No mosaic is computed. The logit of a multiscale head is a weighted sum over the places of its map, so that the logit of
a mosaic follows from two numbers of each image: the sum of the weights of its places, and their weighted mean. One pass
over the images gives thousands of mosaics of any size, without the seams that mosaics of pixels have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from crackcam.data.pixels import PixelSplit, content_window, reflect_into_padding
from crackcam.models.checkpoint import AREA
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import SHARPNESS, Multiscale
from crackcam.models.tiles import calibrated_for_area, reads_tiles
from crackcam.progress import Progress

logger = logging.getLogger(__name__)

FRAMES = (4, 9, 16, 25, 36, 64)  # areas of the mosaics as multiples of the network's square
MOSAICS = 200  # of each area, from each group of images
MOST = 240  # images of a group that are used
PRIOR = np.array([1.0, 0.1])  # standard deviations of offset and log temperature, each for an area e times as large


@dataclass(frozen=True, eq=False)
class PooledImages:
    """What the logits of a mosaic need to know of each image in it.

    Attributes:
        weight: (N, classes) float64, logarithm of the sum of the weights of its places.
        mean: (N, classes) float64, weighted mean of the evidence.
        frames: (N,) float64, its area as a multiple of the network's square.
        labels: (N,) int64 class indices.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    frames: torch.Tensor
    labels: torch.Tensor

    def logits(self, chosen: Sequence[int], model: Multiscale) -> torch.Tensor:
        """The logits of a mosaic of some of the images, (classes,) float64."""
        shares = self.weight[chosen].softmax(dim=0)
        return model.bias.cpu().double() + model.scale.cpu().double() * (shares * self.mean[chosen]).sum(dim=0)


def pool_images(network: LoadedModel, split: PixelSplit, batch_size: int) -> PooledImages:
    """Pool the evidence of each image, without its padding, which is filled with its reflection.

    Among grey, a photograph has more evidence than among others of its kind: of concrete, 2 to 4 more in the logit.

    Args:
        network: with a multiscale head.
        split: the images; at most :data:`MOST`, evenly spaced, are used.
        batch_size: images at a time.
    """
    used = torch.linspace(0, len(split) - 1, min(MOST, len(split))).round().long()
    weights, means, frames = [], [], []
    parts = used.split(batch_size)
    for part in Progress("calibrating for area", len(parts), "batch").over(parts):
        pixels = split.pixels[part]
        filled = torch.stack([reflect_into_padding(image) for image in pixels])
        with torch.inference_mode(), network.runtime.autocast():
            model = network.inference_model
            assert isinstance(model, Multiscale)
            evidence = model.evidence(network.to_inputs(filled)).double().cpu()
        stride = filled.shape[2] // evidence.shape[2]
        for image, of_image in zip(pixels, evidence, strict=True):
            rows, columns = content_window(image)
            frames.append((rows.stop - rows.start) * (columns.stop - columns.start) / image[0].numel())
            down, across = (slice(-(-side.start // stride), max(1, side.stop // stride)) for side in (rows, columns))
            places = of_image[:, down, across].flatten(1)
            weights.append((SHARPNESS * places).logsumexp(dim=1))
            means.append(((SHARPNESS * places).softmax(dim=1) * places).sum(dim=1))
    areas = torch.tensor(frames, dtype=torch.float64)
    return PooledImages(torch.stack(weights), torch.stack(means), areas, split.labels[used])


def draw_mosaics(
    images: PooledImages, model: Multiscale, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mosaics of neighbours in the list, which often come from one site: logits (M, classes), frames and labels (M,).

    Half of them have one image of a class with a map among those without. No mosaic has more than half of the images,
    so that they differ.
    """
    present = model.class_mask.cpu()[images.labels] > 0
    absent, cracked = (torch.nonzero(which)[:, 0].tolist() for which in (~present, present))
    logits, frames, labels = [], [], []
    for area in FRAMES if absent and cracked else ():
        count = max(2, round(area / images.frames[absent].mean().item()))
        for number in range(MOSAICS if 2 * count <= len(absent) else 0):
            start = int(rng.integers(len(absent)))
            chosen = [absent[(start + step) % len(absent)] for step in range(count)]
            label = images.labels[chosen[0]]
            if number % 2:
                chosen[0] = cracked[int(rng.integers(len(cracked)))]
                label = images.labels[chosen[0]]
            logits.append(images.logits(chosen, model))
            frames.append(images.frames[chosen].sum())
            labels.append(label)
    if not logits:
        return torch.empty(0, len(model.class_mask)), torch.empty(0), torch.empty(0, dtype=torch.int64)
    return torch.stack(logits), torch.stack(frames), torch.stack(labels)


def calibrate_area(
    network: LoadedModel, groups: Sequence[PixelSplit], batch_size: int, seed: int = 0
) -> dict[str, float]:
    """Fit how the decision on a large image allows for its area.

    Args:
        network: a calibrated model; its card names the classes.
        groups: validation images, in the order of their files, and synthetic ones; mosaics have images of one group.
        batch_size: images at a time.
        seed: of the mosaics.

    Returns:
        :attr:`crackcam.types.ModelCard.area`; empty where the network reads no tiles, or there are too few images.
    """
    if not reads_tiles(network):
        return {}
    assert isinstance(network.model, Multiscale)
    rng = np.random.default_rng([seed, len(groups)])
    with torch.no_grad():
        drawn = [draw_mosaics(pool_images(network, split, batch_size), network.model, rng) for split in groups]
    logits, frames, labels = (torch.cat(each) for each in zip(*drawn, strict=True))
    if not len(labels):
        logger.info("too few validation images to calibrate the decision on large images for their area")
        return {}
    found = fit_area(logits, frames, labels, network.model.class_mask.cpu(), sum(map(len, groups)))
    logger.info("large images: offset %(offset).3f, log temperature %(log_temperature).3f for e times the area", found)
    return found


def fit_area(
    logits: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, class_mask: torch.Tensor, images: int
) -> dict[str, float]:
    """Fit ``offset`` and ``log_temperature``: a logistic regression of the class on the logits and on the log area.

    Maximum a posteriori, as :func:`crackcam.training.calibration.fit_temperature`: both are normal with mean 0.

    Args:
        logits: (M, classes) of mosaics.
        frames: (M,) area of each, as a multiple of the network's square.
        labels: (M,) int64 class indices.
        class_mask: (classes,), 0 for classes without a map.
        images: number that the mosaics are made of: they tell as much as these, however many they are.

    Examples:
        >>> import torch
        >>> from crackcam.training.area import fit_area
        >>> logits = torch.tensor([[0.0, 2.0], [0.0, 3.0], [0.0, 5.0], [0.0, 6.0]]).repeat(9, 1)
        >>> labels = torch.tensor([0, 0, 1, 1]).repeat(9)
        >>> found = fit_area(logits, torch.full((36,), 7.4), labels, torch.tensor([0.0, 1.0]), 100)
        >>> round(found["offset"])  # 2 for an area e times as large: the boundary is at 4
        -2
    """

    def loss(parameters: np.ndarray) -> float:
        area = dict(zip(AREA, parameters.tolist(), strict=True))
        likelihood = F.cross_entropy(calibrated_for_area(logits.double(), frames, class_mask, area), labels).item()
        return images * likelihood + float(((parameters / PRIOR) ** 2).sum()) / 2

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4})
    return dict(zip(AREA, map(float, found.x), strict=True))
