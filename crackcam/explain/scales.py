"""Heatmaps of images at several scales, at their native resolution in tiles, and of several layers, combined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from PIL import Image

from crackcam.config import ExplainConfig
from crackcam.errors import UserError
from crackcam.explain.heatmaps import Technique, check_evidence, heatmaps
from crackcam.methods import EVIDENCE, NAMED, OWN
from crackcam.models import tiles
from crackcam.models.checks import accepts_size
from crackcam.models.loaded import LoadedModel, stack
from crackcam.models.tile_layout import TILE, Axis
from crackcam.preprocessing import Preprocessing, pad_to
from crackcam.progress import Progress
from pytorch_grad_cam.utils.maps import resize


@dataclass(frozen=True)
class Combination:
    """Which heatmaps of an image are combined.

    Attributes:
        technique: how each is made.
        scales: multiples of the network's size, and :data:`crackcam.methods.OWN`: the image at native resolution, in
            tiles. The result is their mean.
        fuse: "mean" or "product" (geometric mean) of the heatmaps of several layers, each divided by its maximum.
        batch_size: images at a time.
    """

    technique: Technique
    scales: tuple[float | str, ...] = (1.0,)
    fuse: str | None = None
    batch_size: int = 32

    @classmethod
    def of(cls, technique: Technique, config: ExplainConfig, batch_size: int) -> Combination:
        """What the settings ask for."""
        return cls(technique, config.scales, config.fuse, batch_size)

    @property
    def plain(self) -> bool:
        """Whether nothing is combined."""
        return not self.fuse and self.scales == (1.0,)

    def check(self, network: LoadedModel) -> None:
        """Raises UserError where the method, or the model, cannot be combined so."""
        method, layers = self.technique.method, self.technique.layers
        if NAMED[method].signed_image:
            raise UserError(f"{method} makes images, not heatmaps: leave --scales and --fuse out")
        if self.fuse and not NAMED[method].uses_layers:
            raise UserError(f"{method} reads no target layer: leave --fuse out")
        if self.fuse and NAMED[method].multi_layer:
            raise UserError(f"{method} combines its layers itself: leave --fuse out")
        if self.fuse and len(layers) == 1:
            raise UserError(f"--fuse combines layers, and there is {layers[0].name} alone: name others with --layer")
        if OWN in self.scales and NAMED[method].normalized:
            raise UserError(
                f"{method} stretches every heatmap to [0, 1], so that tiles do not match: no --scales {OWN}"
            )
        preprocessing, size = network.preprocessing, network.preprocessing.size
        multiples = [TILE if isinstance(scale, str) else scale for scale in self.scales]
        for side in {preprocessing.at_scale(scale).size for scale in multiples} - {size}:
            if not accepts_size(network.model, side):
                raise UserError(f"{network.card.arch} accepts images of {size} px only: leave --scales out")


def combined_heatmaps(
    network: LoadedModel,
    combination: Combination,
    pixels: torch.Tensor,
    images: Sequence[np.ndarray],
    targets: Sequence[int],
) -> list[torch.Tensor]:
    """:func:`heatmaps` of images at several scales and of several layers, combined.

    Args:
        network: what is explained.
        combination: which heatmaps.
        pixels: (N, 3, size, size) uint8.
        images: (H, W, 3) uint8 each, what they were made from.
        targets: class index for each image.

    Returns:
        For each image a heatmap (h, w) of the part of it that the model sees, without padding, at the largest scale;
        in the unit of the network's own size, whatever the scale; of several layers in [0, 1].

    Raises:
        UserError: the method, or the model, cannot do that.
    """
    technique, batch_size = combination.technique, combination.batch_size
    if combination.plain:
        return crop_padding(heatmaps(network, technique, pixels, targets, batch_size), images, network.preprocessing)
    combination.check(network)
    if len(technique.layers) > 1 and not NAMED[technique.method].multi_layer:
        alone = [
            replace(combination, technique=replace(technique, layers=[layer]), fuse=None) for layer in technique.layers
        ]
        of_layers = [_over_scales(network, each, pixels, images, targets) for each in alone]
        return [fuse(of_image, combination.fuse) for of_image in zip(*of_layers, strict=True)]
    return _over_scales(network, combination, pixels, images, targets)


def _over_scales(
    network: LoadedModel,
    combination: Combination,
    pixels: torch.Tensor,
    images: Sequence[np.ndarray],
    targets: Sequence[int],
) -> list[torch.Tensor]:
    """Mean of the heatmaps over the scales, of the first layers alone."""
    if combination.plain:
        plain = heatmaps(network, combination.technique, pixels, targets, combination.batch_size)
        return crop_padding(plain, images, network.preprocessing)
    totals = [torch.zeros(size) for size in _sizes(network.preprocessing, combination.scales, images)]
    for scale in combination.scales:
        if isinstance(scale, str):
            made: Iterable[torch.Tensor] = tiled_heatmaps(network, combination, images, targets)
        else:
            at_scale = _at_scale(network, combination, pixels, images, targets, scale)
            made = crop_padding(at_scale, images, network.preprocessing)
        for total, heatmap in zip(totals, made, strict=True):
            total += resize(heatmap[None].cpu(), tuple(total.shape))[0] / len(combination.scales)
    return totals


def _sizes(
    preprocessing: Preprocessing, scales: Sequence[float | str], images: Sequence[np.ndarray]
) -> list[tuple[int, ...]]:
    """Height and width of each combined heatmap."""
    if OWN in scales:
        return [image[preprocessing.seen(*image.shape[:2])].shape[:2] for image in images]
    largest = preprocessing.at_scale(max(scale for scale in scales if not isinstance(scale, str)))
    return [tuple(s.stop - s.start for s in largest.inside(*image.shape[:2])) for image in images]


def _at_scale(
    network: LoadedModel,
    combination: Combination,
    pixels: torch.Tensor,
    images: Sequence[np.ndarray],
    targets: Sequence[int],
    scale: float,
) -> torch.Tensor:
    """Heatmaps at ``scale`` times the network's size, in the unit of its own."""
    if scale != 1:
        preprocessing = network.preprocessing.at_scale(scale)
        pixels = stack([preprocessing.apply(image) for image in images])
    batch_size = max(1, int(combination.batch_size / max(1, scale) ** 2))
    made = heatmaps(network, combination.technique, pixels, targets, batch_size)
    return made * scale**2 if NAMED[combination.technique.method].extensive else made


def fuse(maps: Sequence[torch.Tensor], how: str | None) -> torch.Tensor:
    """Heatmaps of one image (H, W), each over its maximum: their mean, or with "product" their geometric mean."""
    relative = torch.stack([heatmap / heatmap.max() if heatmap.any() else heatmap for heatmap in maps])
    return relative.prod(dim=0) ** (1 / len(maps)) if how == "product" else relative.mean(dim=0)


# -- padding ---------------------------------------------------------------------------------------------------------


def crop_padding(
    maps: Iterable[torch.Tensor], images: Sequence[np.ndarray], preprocessing: Preprocessing
) -> list[torch.Tensor]:
    """Of heatmaps (..., side, side) of the network's input, at whatever scale, the parts that show the images."""
    cropped = []
    for heatmap, image in zip(maps, images, strict=True):
        scaled = preprocessing.at_scale(heatmap.shape[-1] / preprocessing.size)
        cropped.append(heatmap[..., *scaled.inside(*image.shape[:2])])
    return cropped


# -- tiles -----------------------------------------------------------------------------------------------------------


def tiled_heatmaps(
    network: LoadedModel, combination: Combination, images: Sequence[np.ndarray], targets: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Heatmaps of images at their native resolution, in tiles.

    Tiles are at most twice the network's size and overlap by half: other methods than ``evidence`` weigh channels tile
    by tile, so that neighbours differ, and fade into each other slowly. Memory holds one heatmap and a batch of tiles,
    of at most :data:`crackcam.models.tiles.TILE_PIXELS` on CPUs. The map of ``evidence`` is the one that large images
    are decided by, :func:`crackcam.models.tiles.read_evidence`, at its own resolution.

    Yields:
        (H, W) float32 on the CPU, of the part of the image that the model sees; of ``evidence`` (h, w). Sides shorter
        than the network's size are enlarged to it first, or padded where the network's images are.
    """
    for image, target in zip(images, targets, strict=True):
        seen = image[network.preprocessing.seen(*image.shape[:2])]
        if combination.technique.method == EVIDENCE:
            check_evidence(network, combination.technique)
            yield tiles.read_evidence(network, seen, combination.batch_size).probability(network, target)
        else:
            yield _tiled_heatmap(network, combination, seen, target)


def _tiled_heatmap(network: LoadedModel, combination: Combination, image: np.ndarray, target: int) -> torch.Tensor:
    size, padded = network.preprocessing.size, bool(network.preprocessing.max_scale)
    rows, columns = (Axis(max(size, side), round(TILE * size), size) for side in image.shape[:2])
    large = _enlarged(image, rows.length, columns.length, padded)
    total = torch.zeros(rows.length, columns.length)
    batch_size = tiles.tiles_at_once(network, rows.tile * columns.tile, combination.batch_size)
    places = list(product(enumerate(rows.starts), enumerate(columns.starts)))
    technique = combination.technique
    firsts = range(0, len(places), batch_size)
    for first in Progress(f"{technique.method} in tiles", len(firsts), "batch").over(firsts):
        some = places[first : first + batch_size]
        parts = stack([large[top : top + rows.tile, left : left + columns.tile] for (_, top), (_, left) in some])
        made = heatmaps(network, technique, parts, [target] * len(some), batch_size)
        for heatmap, ((row, top), (column, left)) in zip(made.cpu(), some, strict=True):
            weighted = heatmap * rows.weights(row)[:, None] * columns.weights(column)
            total[top : top + rows.tile, left : left + columns.tile] += weighted
    if NAMED[technique.method].extensive:
        total *= rows.tile * columns.tile / size**2
    if padded:
        top, left = (free // 2 for free in (rows.length - image.shape[0], columns.length - image.shape[1]))
        return total[top : top + image.shape[0], left : left + image.shape[1]]
    return resize(total[None], image.shape[:2])[0]


def _enlarged(image: np.ndarray, height: int, width: int, padded: bool) -> np.ndarray:
    if padded:
        return pad_to(image, height, width)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
