"""A method bound to a model: predicts and explains images in one place for figures, whole folders and Python."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from crackcam.config import ExplainConfig
from crackcam.data.images import DecodedImage
from crackcam.errors import UserError
from crackcam.explain.explanation import Explanation
from crackcam.explain.heatmaps import (
    Technique,
    as_map,
    check_evidence,
    explained_classes,
    heatmaps,
    one_pass,
    predict_and_explain,
)
from crackcam.explain.refinement import refine_lines
from crackcam.explain.scales import Combination, combined_heatmaps, crop_padding
from crackcam.explain.thresholds import known_threshold
from crackcam.methods import BEST, BEST_FUSE, BEST_OF_ENGINE, BEST_STRIDE, EVIDENCE, NAMED, OWN, method_class
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.output_stride import can_dilate, dilate
from crackcam.models.target_layers import TargetLayer, find_target_layers
from crackcam.models.tiles import is_large, predict_images, read_evidence, tile_count, tiled_probabilities
from crackcam.preprocessing import Preprocessing
from crackcam.render import captions
from crackcam.runtime import TORCH
from crackcam.types import Prediction

logger = logging.getLogger(__name__)

PREDICTED = "predicted"  # the target of each image that is the class predicted


def resolve_best(config: ExplainConfig, network: LoadedModel) -> ExplainConfig:
    """The settings, with what ``best`` means for a model in its place.

    Measured on images of cracks with masks (docs/explanation/experiments.md): the map of a multiscale head; of other
    models LayerCAM of three layers, multiplied, at output stride 8. What a model cannot do is left out.
    """
    if config.method != (BEST,):
        return config
    if isinstance(network.model, Multiscale):
        found = replace(config, method=(EVIDENCE,))
    else:
        found, size = replace(config, method=(BEST_OF_ENGINE,)), network.preprocessing.size
        if not config.layer and not config.fuse and len(find_target_layers(network.model, size, stages=True)) > 1:
            found = replace(found, fuse=BEST_FUSE)
        if not config.layer and not config.stride and can_dilate(network.model, BEST_STRIDE, size):
            found = replace(found, stride=BEST_STRIDE)
    flags = [f" --{name} {value}" for name, value in (("stride", found.stride), ("fuse", found.fuse)) if value]
    logger.info("best: --method %s%s", found.method[0], "".join(flags))
    return found


@dataclass(frozen=True)
class Explainer:
    """One method bound to a model.

    Attributes:
        network: what predicts.
        explained: what is explained: the same, or dilated; it sees whole images, also where the network crops them.
        combination: how heatmaps are made.
        config: of one method, with ``best`` resolved.
    """

    network: LoadedModel
    explained: LoadedModel
    combination: Combination
    config: ExplainConfig

    @classmethod
    def of(cls, network: LoadedModel, config: ExplainConfig, batch_size: int = 32) -> list[Explainer]:
        """An explainer for each method of the settings.

        Raises:
            UserError: the model cannot be dilated so, or has no such layer.
        """
        config = resolve_best(config, network)
        if config.layer and not any(NAMED[method].uses_layers for method in config.method):
            raise UserError(f"{', '.join(config.method)}: no target layer is used, leave --layer out")
        size = network.preprocessing.size
        explained = network.without_crop()
        if explained is not network:
            logger.info("heatmaps are of the whole image, predictions of its centre, as the weights were scored")
        if config.stride:
            explained = explained.with_model(dilate(network.model, config.stride, size))
        found = []
        for method in config.method:
            if network.runtime.engine != TORCH and (method != EVIDENCE or config.stride):
                logger.info("heatmaps by %s%s are computed in torch", method, " with --stride" if config.stride else "")
            # found in the model as it is, where the stages differ in their grids
            layers: list[TargetLayer] = []
            if NAMED[method].uses_layers:  # examining the layers takes seconds
                layers = find_target_layers(
                    network.model,
                    size,
                    list(config.layer) if config.layer else None,
                    NAMED[method].multi_layer or bool(config.fuse),
                    explained.model,
                )
            technique = Technique(method, layers, **config.smoothing)
            combination = Combination.of(technique, config, batch_size)
            found.append(cls(network, explained, combination, replace(config, method=(method,))))
        return found

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.combination.technique.method

    @property
    def layer_names(self) -> list[str]:
        """Names of the target layers."""
        return self.combination.technique.layer_names

    def target_index(self, default: str = PREDICTED) -> int | None:
        """Index of the class to explain; None: the one predicted.

        Args:
            default: class, where the settings name none.

        Raises:
            UserError: the model has no such class.
        """
        target = self.config.target or default
        return None if target == PREDICTED else self.network.card.class_index(target)

    @property
    def whole(self) -> Preprocessing | None:
        """How images are explained, where that is not how they are predicted: without the crop."""
        explained = self.explained.preprocessing
        return None if explained == self.network.preprocessing else explained

    def as_explained(self, pixels: torch.Tensor, images: Sequence[np.ndarray]) -> torch.Tensor:
        """(N, 3, size, size) uint8: images as they are explained, of those as they are predicted."""
        return self.explained.to_pixels(images) if self.whole else pixels

    def predict_and_explain(
        self,
        pixels: torch.Tensor,
        images: Sequence[np.ndarray],
        target: int | None,
        explained: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[int], list[torch.Tensor]]:
        """Predict and explain a batch, from one forward pass where the method needs no more.

        Args:
            pixels: (N, 3, size, size) uint8, as they are predicted.
            images: (H, W, 3) uint8 each, what they were made from.
            target: class to explain; None: the one predicted.
            explained: what :meth:`as_explained` returns, where it is known.

        Returns:
            Probabilities (N, classes) float32; the class that each heatmap explains; and the heatmaps, as
            :func:`crackcam.explain.scales.combined_heatmaps` returns them.
        """
        large = self._large(images)
        if not large:
            return self._together(pixels, images, target, explained)
        found = {number: self._alone(pixels[number : number + 1], images[number], target) for number in large}
        if small := [number for number in range(len(images)) if number not in found]:
            together = self._together(pixels[small], [images[number] for number in small], target, None)
            found |= zip(small, zip(*together, strict=True), strict=True)
        probabilities, targets, maps = zip(*(found[number] for number in range(len(images))), strict=True)
        return torch.stack(list(probabilities)), list(targets), list(maps)

    def _large(self, images: Sequence[np.ndarray]) -> list[int]:
        """The numbers of the images that are read in tiles."""
        return [number for number, image in enumerate(images) if is_large(self.network, *image.shape[:2])]

    def _together(
        self, pixels: torch.Tensor, images: Sequence[np.ndarray], target: int | None, explained: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[int], list[torch.Tensor]]:
        """:meth:`predict_and_explain` of images in one piece."""
        network, technique = self.network, self.combination.technique
        single = self.combination.plain and self.explained is network and not technique.aug_smooth
        if single and one_pass(self.method) and len(pixels) <= self.combination.batch_size:
            probabilities, made = predict_and_explain(network, technique, pixels, target)
            maps = crop_padding(made, images, network.preprocessing)
            return probabilities, explained_classes(probabilities, target), maps
        probabilities = torch.from_numpy(network.all_probabilities(pixels, self.combination.batch_size))
        targets = explained_classes(probabilities, target)
        explained = self.as_explained(pixels, images) if explained is None else explained
        return probabilities, targets, self.explain(explained, images, targets)

    def _alone(
        self, pixels: torch.Tensor, image: np.ndarray, target: int | None
    ) -> tuple[torch.Tensor, int, torch.Tensor]:
        """:meth:`predict_and_explain` of an image that is read in tiles."""
        if self.method == EVIDENCE:
            check_evidence(self.network, self.combination.technique)
        evidence = read_evidence(self.network, image, self.combination.batch_size)
        probabilities = tiled_probabilities(self.network, evidence)
        (index,) = explained_classes(probabilities[None], target)
        if self.method == EVIDENCE and self.combination.plain and self.explained is self.network:
            return probabilities, index, evidence.probability(self.network, index)
        return probabilities, index, self._explain_large(pixels, image, index)

    def explain(self, pixels: torch.Tensor, images: Sequence[np.ndarray], targets: Sequence[int]) -> list[torch.Tensor]:
        """Heatmaps of a batch that is :meth:`as_explained`, as :func:`crackcam.explain.scales.combined_heatmaps`.

        Images that the network reads in tiles are explained in tiles too, where the method allows it.
        """
        large = self._large(images)
        if not large:
            return combined_heatmaps(self.explained, self.combination, pixels, images, targets)
        maps = {
            number: self._explain_large(pixels[number : number + 1], images[number], targets[number])
            for number in large
        }
        if small := [number for number in range(len(images)) if number not in maps]:
            chosen, classes = [images[number] for number in small], [targets[number] for number in small]
            made = combined_heatmaps(self.explained, self.combination, pixels[small], chosen, classes)
            maps |= zip(small, made, strict=True)
        return [maps[number] for number in range(len(images))]

    def _explain_large(self, pixels: torch.Tensor, image: np.ndarray, target: int) -> torch.Tensor:
        """The heatmap of an image that is predicted in tiles."""
        combination = self.combination
        if self.config.single_scale:
            combination = self._in_tiles or combination
        (heatmap,) = combined_heatmaps(self.explained, combination, pixels, [image], [target])
        return heatmap

    @cached_property
    def _in_tiles(self) -> Combination | None:
        """How heatmaps are made in tiles; None where the method cannot, which is logged."""
        combination = replace(self.combination, scales=(OWN,))
        try:
            combination.check(self.explained)
        except UserError:
            logger.info(
                "%s cannot be computed in tiles: its heatmaps of large images are of the whole image, resized; "
                "predictions are made in tiles",
                self.method,
            )
            return None
        return combination

    def explanation(self, image: np.ndarray, prediction: Prediction, target: int, heatmap: torch.Tensor) -> Explanation:
        """One heatmap as an object.

        Args:
            image: (H, W, 3) uint8.
            prediction: of the image.
            target: class index that the heatmap explains.
            heatmap: from :meth:`explain`.
        """
        card = self.network.card
        name = card.classes[target]
        return Explanation(
            image,
            prediction,
            name,
            self.method,
            self.layer_names,
            heatmap,
            self.explained.preprocessing,
            known_threshold(self.config, card, self.method, name),
            bool(self.config.refine),
        )

    def as_function(self) -> Callable[[nn.Module, torch.Tensor, list[int]], torch.Tensor]:
        """The plain method as a function of any model of this architecture, for :mod:`crackcam.evaluation`.

        The function maps a model, inputs (N, 3, size, size) and targets to heatmaps (N, size, size).
        """
        technique, batch_size = self.combination.technique, self.combination.batch_size

        def explain(model: nn.Module, inputs: torch.Tensor, targets: list[int]) -> torch.Tensor:
            modules = dict(model.named_modules())
            layers = [layer._replace(module=modules[layer.name]) for layer in technique.layers]
            pixels = self.explained.preprocessing.denormalize(inputs)
            made = heatmaps(
                self.explained.with_model(model), replace(technique, layers=layers), pixels, targets, batch_size
            )
            maps = torch.stack([as_map(heatmap) for heatmap in made])
            if not self.config.refine:
                return maps
            return torch.from_numpy(np.stack([refine_lines(heatmap) for heatmap in maps.cpu().numpy()])).to(maps)

        return explain


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same images.

    Attributes:
        images: what was explained.
        predictions: of each image.
        targets: class index that each heatmap explains.
        pixels: (N, 3, size, size) uint8, the images as they are explained.
        explainers: by method, those that can explain the model.
        maps: by method, one for each image.
        seconds: by method.
    """

    images: list[DecodedImage]
    predictions: list[Prediction]
    targets: list[int]
    pixels: torch.Tensor
    explainers: dict[str, Explainer]
    maps: dict[str, list[torch.Tensor]]
    seconds: dict[str, float]

    def explanations(self, index: int) -> list[Explanation]:
        """Of one image, by every method."""
        return [
            explainer.explanation(
                self.images[index].pixels, self.predictions[index], self.targets[index], self.maps[method][index]
            )
            for method, explainer in self.explainers.items()
        ]


def compare(
    explainers: Sequence[Explainer],
    images: list[DecodedImage],
    target: int | None,
    true: str | None = None,
    timed: bool = False,
) -> Comparison:
    """Predict images, and explain them by all methods; where there are several, by those that can.

    Args:
        explainers: of one model.
        images: at least one.
        target: class to explain; None: the one predicted.
        true: class of the images, where it is known.
        timed: the time of a method is to be its own, without the prediction.

    Raises:
        UserError: none can explain this model.
    """
    network = explainers[0].network
    arrays = [image.pixels for image in images]
    pixels = network.to_pixels(arrays)
    explained = explainers[0].as_explained(pixels, arrays)
    single = len(explainers) == 1 and not timed
    probabilities, targets = torch.empty(0), []
    if not single:
        probabilities, _ = predict_images(network, arrays, explainers[0].combination.batch_size)
        targets = explained_classes(probabilities, target)
    maps: dict[str, list[torch.Tensor]] = {}
    seconds: dict[str, float] = {}
    target_text = "the predicted class" if target is None else network.card.classes[target]
    for each in explainers:
        logger.info("%s: %s", each.method, captions.describe({each.method: each.layer_names}, target_text))
        if each.method != EVIDENCE:
            method_class(each.method)  # imported now: its time is not the method's
        start = time.perf_counter()
        try:
            if single:
                probabilities, targets, maps[each.method] = each.predict_and_explain(pixels, arrays, target, explained)
            else:
                maps[each.method] = each.explain(explained, arrays, targets)
        except UserError as error:
            if len(explainers) == 1:
                raise
            logger.warning("left out %s", error.with_flags)
        seconds[each.method] = time.perf_counter() - start
    if not maps:
        raise UserError("none of these methods can explain this model")
    predictions = [
        Prediction.of(
            network.card.classes, row.tolist(), image.path, true, tile_count(network, *image.pixels.shape[:2])
        )
        for image, row in zip(images, probabilities, strict=True)
    ]
    used = {each.method: each for each in explainers if each.method in maps}
    return Comparison(images, predictions, targets, explained, used, maps, seconds)
