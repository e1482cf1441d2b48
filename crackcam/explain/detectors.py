"""Detectors of torchvision: boxes, and heatmaps of the evidence for them.

The task of a model follows from its architecture. Detectors are used with the weights that COCO gave them, or with a
user's own file. An image goes in whole, at its own size; the detector resizes it by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from crackcam.config import ExplainConfig, ModelConfig
from crackcam.data.images import DecodedImage
from crackcam.data.sources import ImageSource, SourceImage, map_source
from crackcam.errors import UserError
from crackcam.explain.explanation import Explanation
from crackcam.explain.heatmaps import Technique, engine_errors, show_progress
from crackcam.methods import BEST, EVIDENCE, METHODS, method_class
from crackcam.models import checkpoint, checks
from crackcam.models.initialisation import ZerosForDraws
from crackcam.models.loaded import LoadedModel
from crackcam.models.pretrained import WeightsUnavailableError, download_weights
from crackcam.models.registry import weights_entry
from crackcam.runtime import Runtime
from crackcam.text import counted
from crackcam.types import Detection, ModelCard, Prediction
from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import pyramid_reshape_transform

logger = logging.getLogger(__name__)

DEFAULT_METHOD = "gradcam"  # what ``best`` means for a detector
LAYER = "backbone"  # of every detector in torchvision: a pyramid of grids
STRONGEST = 0.01  # fraction of its channels that methods with one run a channel try
COPIES = 4  # images at a time in such methods: a detector enlarges them
PROBE = 320  # pixels; side of the image that finds the layers
NOTHING = "nothing detected"
NOT_CLASSES = {"__background__", "background", "N/A"}


class Detector(LoadedModel):
    """A detector, ready to run: predicts boxes and explains them.

    Examples:
        >>> import numpy as np
        >>> import crackcam
        >>> model = crackcam.load("ssdlite320_mobilenet_v3_large", pretrained="none")
        >>> [prediction] = model.predict(np.zeros((64, 64, 3), np.uint8), score_threshold=0.99)
        >>> prediction.detections
        ()
    """

    def predict(self, images: ImageSource, *, score_threshold: float = 0.5) -> Iterator[Prediction] | Prediction:
        """Boxes that score more than a threshold; sources and results as :meth:`crackcam.Classifier.predict`."""
        self.set_score_threshold(score_threshold)
        return map_source(images, lambda batch: map(self.detect, batch), batch_size=1)

    def set_score_threshold(self, threshold: float) -> None:
        """Scores that a box must exceed for the detector to return it."""
        holder: Any = getattr(self.model, "roi_heads", self.model)
        holder.score_thresh = threshold

    def to_input(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 -> (1, 3, H, W) float32 in 0..1 on the device; detectors normalise by themselves."""
        return torch.from_numpy(image).to(self.runtime.device).permute(2, 0, 1)[None].float() / 255

    def detect(self, image: DecodedImage | SourceImage) -> Prediction:
        """What the detector finds in an image."""
        with torch.inference_mode(), self.runtime.autocast():
            (found,) = self.model(self.to_input(image.pixels))
        labels, scores, boxes = (found[key].cpu().tolist() for key in ("labels", "scores", "boxes"))
        return as_prediction(
            image.path,
            [
                Detection(label, self.card.classes[label], score, tuple(box))
                for label, score, box in zip(labels, scores, boxes, strict=True)
            ],
        )

    def find_layers(self, names: Sequence[str] | None) -> dict[str, bool]:
        """The layers to explain, the backbone by default; and whether each puts out a pyramid of grids.

        Raises:
            UserError: a name that is no layer with a grid (all such layers are listed).
        """
        pyramids: dict[str, bool] = {}

        def watch(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
                first = next(iter(output.values()), None) if isinstance(output, dict) else output
                if isinstance(first, torch.Tensor) and first.ndim == 4 and min(first.shape[2:]) > 1:
                    pyramids[name] = isinstance(output, dict)

            return hook

        handles = [module.register_forward_hook(watch(name)) for name, module in self.model.named_modules() if name]
        try:
            with torch.inference_mode():
                self.model(torch.zeros(1, 3, PROBE, PROBE, device=self.runtime.device))
        finally:
            for handle in handles:
                handle.remove()
        chosen = names or [LAYER]
        for name in chosen:
            if name not in pyramids:
                raise UserError(f"no layer {name!r} with a grid; available: {', '.join(pyramids)}")
        return {name: pyramids[name] for name in chosen}

    def explain_boxes(
        self, image: DecodedImage, prediction: Prediction, config: ExplainConfig, layers: dict[str, bool]
    ) -> list[Explanation]:
        """Evidence for all boxes of a prediction together, by each method of the settings.

        Args:
            image: what was predicted.
            prediction: with at least one box; methods that know no class do not look at them.
            config: methods and smoothing.
            layers: from :meth:`find_layers`.

        Raises:
            UserError: a method cannot explain this model; the message says why.
        """
        threshold = float("nan") if config.threshold is None else config.threshold
        return [
            Explanation(
                image.pixels,
                prediction,
                config.target or "the boxes",
                method,
                list(layers) if METHODS[method].uses_layers else [],
                self._heatmap(image.pixels, prediction, method, layers, config.eigen_smooth),
                None,
                threshold,
                bool(config.refine),
            )
            for method in config.method
        ]

    def _heatmap(
        self, image: np.ndarray, prediction: Prediction, method: str, layers: dict[str, bool], eigen_smooth: bool
    ) -> torch.Tensor:
        """(H, W) float32 on the device, >= 0, in the method's own unit."""
        if METHODS[method].signed_image:
            raise UserError(f"{method} shows how a classifier's logit changes: a detector has none")
        settings: dict[str, Any] = {}
        if method == "ablationcam":
            rows = AblationLayerFasterRCNN() if any(layers.values()) else None
            settings = {"ablation_layer": rows, "ratio_channels_to_ablate": STRONGEST}
        elif method == "scorecam":
            settings = {"ratio_channels_to_score": STRONGEST}
        with engine_errors(method), show_progress(self.model, Technique(method), 1):
            explain = method_class(method)(self.model, list(layers), pyramid_reshape_transform, **settings)
            explain.batch_size = COPIES
            boxes = prediction.detections
            target = FasterRCNNBoxScoreTarget([box.label for box in boxes], [box.box for box in boxes])
            with self.runtime.autocast():
                return explain.maps(self.to_input(image), [target], eigen_smooth=eigen_smooth, normalize=False)[0]


def as_prediction(path: Path | None, boxes: Sequence[Detection]) -> Prediction:
    """Boxes, best first, as a prediction: its label is that of the best box."""
    probabilities = {box.name: box.score for box in reversed(boxes)}
    best = boxes[0] if boxes else None
    return Prediction(
        best.name if best else NOTHING,
        best.score if best else 0.0,
        dict(sorted(probabilities.items(), key=lambda pair: -pair[1])),
        path,
        detections=tuple(boxes),
    )


def of_class(prediction: Prediction, index: int | None) -> Prediction:
    """The prediction with the boxes of one class alone; None: all."""
    if index is None:
        return prediction
    return as_prediction(prediction.path, [box for box in prediction.detections if box.label == index])


def method_settings(config: ExplainConfig, arch: str) -> ExplainConfig:
    """The settings, with what ``best`` means for a detector in its place.

    Raises:
        UserError: a method or a flag that is for classifiers.
    """
    if EVIDENCE in config.method:
        raise UserError(f"--method {EVIDENCE} shows the map of --head multiscale, and {arch} is a detector")
    given = config.given("aug_smooth", "stride", "scales", "fuse")
    if given:
        raise UserError(f"{given[0]} is for classifiers; {arch} is a detector")
    return replace(config, method=(DEFAULT_METHOD,)) if config.method == (BEST,) else config


@dataclass(frozen=True)
class _Source:
    """Where a detector's weights come from: tensors, None for random ones, and a description."""

    state: dict[str, torch.Tensor] | None
    description: str


def load_detector(config: ModelConfig, runtime: Runtime, may_download: bool = True, seed: int = 0) -> Detector:
    """The detector of an architecture: with COCO's weights, with those of a file, or with random ones.

    Args:
        config: ``arch`` is a detector of torchvision.
        runtime: where it computes.
        may_download: whether weights may be downloaded.
        seed: of random weights.

    Raises:
        UserError: its weights are not available, or the file does not fit.
    """
    assert config.arch is not None
    entry = weights_entry(config.arch)
    classes = ["background", *config.classes] if config.classes else list(entry.meta["categories"])
    source = _read_weights(config, entry, may_download)
    torch.manual_seed(seed)
    with nullcontext() if source.state is None else ZerosForDraws():
        model = torchvision.models.get_model(config.arch, weights=None, weights_backbone=None, num_classes=len(classes))
    if source.state is not None:
        known = counted(len(classes) - 1, "class", "classes")
        checkpoint.fill(model, source.state, source.description, f"{config.arch} with {known}")
    number = counted(len(set(classes) - NOT_CLASSES), "class", "classes")
    logger.info("network: %s, %s, from %s", config.arch, number, source.description)
    logger.info("machine: %s", runtime)
    card = ModelCard(config.arch, classes, image_size=None, pretrained=source.description)
    return Detector(checks.to_device(model.eval(), runtime.device), card, runtime, config.weights)


def _read_weights(config: ModelConfig, entry: Any, may_download: bool) -> _Source:
    if config.weights:
        return _Source(checkpoint.read_tensors(config.weights), str(config.weights))
    if config.pretrained == "none":
        return _Source(None, "random weights: requested")
    if config.classes:
        raise UserError("--classes names the classes of a file of your own: name it with --weights")
    try:
        return _Source(download_weights(entry, may_download), str(entry))
    except WeightsUnavailableError as why:
        raise UserError(f"no COCO weights for {config.arch}: {why}; or name a file with --weights") from None
