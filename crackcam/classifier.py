"""A trained classifier: what the scripts and a notebook call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crackcam.config import WEIGHTS, ExactRuntimeConfig, ExplainConfig, ModelConfig, RuntimeConfig
from crackcam.data.sources import ImageSource, SourceImage, map_source
from crackcam.errors import UserError
from crackcam.explain.detectors import Detector, load_detector
from crackcam.explain.explainer import Explainer
from crackcam.explain.explanation import Explanation
from crackcam.models import checkpoint, engines, onnx
from crackcam.models.checks import check_runs, to_device
from crackcam.models.loaded import LoadedModel
from crackcam.models.registry import check_arch, is_detector
from crackcam.models.tensors import SUFFIXES
from crackcam.models.tiles import predict_images, tile_count
from crackcam.preprocessing import Preprocessing
from crackcam.runtime import ENGINES, TORCH, Runtime
from crackcam.settings import settings_of
from crackcam.text import normalized
from crackcam.types import ModelCard, Prediction

logger = logging.getLogger(__name__)

OVERLAY_SETTINGS = ("style", "colormap")  # of ExplainConfig, which Explanation.overlay takes
EXPLAIN_SETTINGS = [
    each.name for each in settings_of(ExplainConfig) if each.name not in ("method", "target", *OVERLAY_SETTINGS)
]

Path_ = str | PathLike


class Classifier(LoadedModel):
    """An image classifier that predicts and explains.

    Args:
        model: maps (N, 3, H, W) float32, normalised, to logits (N, classes). It is put into eval mode, on the device.
        classes: names in index order.
        preprocessing: how an image becomes the model's input; default: squashed to 224 x 224, normalised as ImageNet.
        device: where it computes, see :class:`crackcam.config.RuntimeConfig`.
        precision: how it computes, see there.

    Raises:
        UserError: the model does not turn an image of that size into a finite number for each class.

    Examples:
        >>> import numpy as np
        >>> from torch import nn
        >>> import crackcam
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> model = crackcam.Classifier(net, classes=["crack", "sound"], preprocessing=crackcam.Preprocessing(size=64))
        >>> image = np.zeros((100, 120, 3), np.uint8)
        >>> sorted(model.predict(image).probabilities)
        ['crack', 'sound']
        >>> model.explain(image, method="gradcam").heatmap.shape
        (100, 120)
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing | None = None,
        *,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        wanted = preprocessing or Preprocessing()
        card = ModelCard(
            type(model).__name__,
            list(classes),
            wanted.size,
            list(wanted.mean),
            list(wanted.std),
            pretrained="a model passed from Python",
            resize=wanted.resize,
            interpolation=wanted.interpolation,
            max_scale=wanted.max_scale,
        )
        runtime = Runtime.of(RuntimeConfig(device=device, precision=precision))
        super().__init__(to_device(model.eval(), runtime.device), card, runtime)
        check_runs(self.model, len(card.classes), wanted.size, card.arch)

    @classmethod
    def of(cls, model: nn.Module, card: ModelCard, runtime: Runtime, path: Path | None = None) -> Classifier:
        """From a model that is in eval mode and on its device, and its card."""
        made = cls.__new__(cls)
        LoadedModel.__init__(made, model, card, runtime, path)
        return made

    def __repr__(self) -> str:
        size, source = self.card.image_size, self.path or self.card.pretrained
        return f"Classifier({self.card.arch}, {self.card.class_summary}, {size} px, {self.runtime}, from {source})"

    @property
    def classes(self) -> list[str]:
        """Names in index order."""
        return self.card.classes

    def predict(
        self, images: ImageSource, *, batch_size: int = 32, resize: bool = False
    ) -> Prediction | Iterator[Prediction]:
        """Predict the classes of images.

        A network with a multiscale head whose one class is the absence of the others, such as the bundled one, reads
        images of more than twice its size in tiles at their own resolution, see :mod:`crackcam.models.tiles`.

        Args:
            images: a file, glob or folder, a Pillow image, an array (H, W, 3) or (N, H, W, 3) of uint8 in RGB order, or
                an iterable of them.
            batch_size: images at a time.
            resize: large images are resized as a whole instead.

        Returns:
            One prediction for a single image; for several an iterator, which reads and predicts as it is consumed.
            Files in a folder that cannot be read are skipped with a warning.

        Raises:
            UserError: there is no such file; or a single image cannot be read.
        """
        network = self.without_tiles() if resize else self

        def predict(batch: list[SourceImage]) -> Iterator[Prediction]:
            found = predict_images(network, [image.pixels for image in batch], batch_size)
            for image, row, tiles in zip(batch, *found, strict=True):
                yield Prediction.of(self.classes, row.tolist(), image.path, self._folder_class(image.path), tiles)

        return map_source(images, predict, batch_size)

    def explain(
        self,
        images: ImageSource,
        method: str = "best",
        target: str | int | None = None,
        *,
        batch_size: int = 32,
        resize: bool = False,
        **settings: Any,
    ) -> Explanation | Iterator[Explanation]:
        """Show where in images the evidence for a class is.

        Args:
            images: as in :meth:`predict`.
            method: one of :data:`crackcam.methods.NAMED`, or "best".
            target: class to explain, by name or index; default: the one predicted.
            batch_size: images at a time.
            resize: large images are resized as a whole, as in :meth:`predict`.
            settings: further settings of :class:`crackcam.ExplainConfig`: ``layer``, ``stride``, ``scales``, ``fuse``,
                ``threshold``, ``refine``, ``aug_smooth``, ``eigen_smooth``.

        Returns:
            One explanation for a single image; for several an iterator.

        Raises:
            UserError: as :meth:`predict`; an unknown setting or class; or the method cannot explain this model.
        """
        unknown = [name for name in settings if name not in EXPLAIN_SETTINGS]
        if unknown:
            hint = "; pass it to overlay()" if unknown[0] in OVERLAY_SETTINGS else ""
            raise UserError(f"no setting {unknown[0]!r} of explain(){hint}; available: {', '.join(EXPLAIN_SETTINGS)}")
        named = None if target is None else str(target)
        config = ExplainConfig(method=method, target=named, **settings)  # type: ignore[arg-type]
        if config.several:
            raise UserError(f"one method at a time, not {', '.join(config.method)}")
        network = self.without_tiles() if resize else self
        (explainer,) = Explainer.of(network, config, batch_size)
        index = explainer.target_index()

        def explain(batch: list[SourceImage]) -> Iterator[Explanation]:
            arrays = [image.pixels for image in batch]
            found = explainer.predict_and_explain(self.to_pixels(arrays), arrays, index)
            for image, row, explained, heatmap in zip(batch, *found, strict=True):
                tiles = tile_count(network, *image.pixels.shape[:2])
                prediction = Prediction.of(
                    self.classes, row.tolist(), image.path, self._folder_class(image.path), tiles
                )
                yield explainer.explanation(image.pixels, prediction, explained, heatmap)

        return map_source(images, explain, batch_size)

    def _folder_class(self, path: Path | None) -> str | None:
        """The class whose folder an image lies in, directly or further down; None where there is none."""
        folders = map(normalized, reversed(path.parent.parts)) if path else ()
        names = {normalized(name): name for name in self.classes}
        return next((names[name] for name in folders if name in names), None)

    def save(self, path: Path_, half: bool = False) -> Path:
        """Write a checkpoint, ``.safetensors``, in half precision if asked; returns its path.

        Raises:
            UserError: the model was passed from Python, so that :func:`crackcam.load` could not build it again.
        """
        path = Path(path)
        if self.path is None and not self.card.training:
            check_arch(self.card.arch)
        checkpoint.save(path, self.model, self.card, half)
        return path

    def export(self, path: Path_) -> Path:
        """Write the model as ONNX, with its card; returns the path.

        Raises:
            UserError: a package is missing (``pip install crackcam[onnx]``); or the model cannot be exported.
        """
        path = Path(path)
        size = self.preprocessing.size
        noise = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        onnx.export(path, self, noise)
        return path


# -- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loader:
    """What to load, and where to.

    Attributes:
        config: which model.
        runtime: where and how it computes.
        seed: of random weights.
    """

    config: ModelConfig
    runtime: RuntimeConfig
    seed: int = 0

    def load(self, layers: bool = False) -> Classifier | Detector:
        """The model; logs what it is.

        Args:
            layers: whether its layers are read, which an ONNX file does not have.

        Raises:
            UserError: no such file or architecture; or its weights are not available.
        """
        if self.config.arch and is_detector(self.config.arch):
            return self._detector()
        path = self._path()
        if path and path.suffix == ".onnx":
            if layers:
                raise UserError(f"{path} has no layers to read: explain the checkpoint that it was exported from")
            return _logged(self._onnx(path))
        return _logged(self._classifier(path))

    def _path(self) -> Path | None:
        """The checkpoint; None: the ImageNet model of ``arch``."""
        config = self.config
        if config.arch and not config.weights and not config.classes:
            return None
        path = config.weights or WEIGHTS
        if path == WEIGHTS and not (config.weights or config.classes or path.exists()):
            logger.info("no %s: using the bundled crack network", WEIGHTS)
            return checkpoint.BUNDLED
        return path

    def _classifier(self, path: Path | None) -> Classifier:
        config, runtime = self.config, Runtime.of(self.runtime)
        if path is None:
            assert config.arch is not None
            random = config.pretrained == "none"
            model, card = checkpoint.load_imagenet(config.arch, runtime.device, random, self.runtime.may_download)
        elif config.pretrained == "none":
            raise UserError(f"{path} holds weights: leave --pretrained none out, or --weights")
        else:
            classes = list(config.classes) if config.classes else None
            model, card = checkpoint.load(path, runtime.device, config.arch, classes)
        made = Classifier.of(model, card, runtime, path)
        self._choose_engine(made)
        return made

    def _choose_engine(self, network: Classifier) -> None:
        wanted = self.runtime.engine
        engine = engines.resolve(wanted, network.runtime)
        if engine == TORCH:
            return
        logger.info("exporting the network for %s: some seconds", ENGINES[engine].title)
        try:
            network.use_engine(engine)
        except UserError as error:
            if wanted != "auto":
                raise
            logger.info("computing in torch: %s", error)

    def _onnx(self, path: Path) -> Classifier:
        if self.config.arch or self.config.classes or self.config.pretrained == "none":
            raise UserError(f"{path} already stores its architecture; drop --arch, --classes and --pretrained")
        found = onnx.load(path, self.runtime)
        return Classifier.of(found.model, found.card, found.runtime, path)

    def _detector(self) -> Detector:
        if self.runtime.engine not in ("auto", TORCH):
            raise UserError(f"--engine {self.runtime.engine} is for classifiers; {self.config.arch} is a detector")
        runtime = Runtime.of(self.runtime)
        if self.runtime.precision == "auto":
            runtime = replace(runtime, dtype=torch.float32, reason="half precision would blur the boxes")
        return load_detector(self.config, runtime, self.runtime.may_download, self.seed)


def _logged(network: Classifier) -> Classifier:
    card = network.card
    source = network.path or card.pretrained
    logger.info("network: %s, %s, %d px, from %s", card.arch, card.class_summary, card.image_size, source)
    logger.info("machine: %s", network.runtime)
    return network


def load(
    source: Path_ | None = None,
    *,
    arch: str | None = None,
    classes: Sequence[str] | None = None,
    pretrained: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    engine: str = "torch",
) -> Classifier | Detector:
    """Load a model.

    Args:
        source: a checkpoint, an ONNX file, or the name of an architecture with ImageNet weights ("resnet50",
            "timm/convnext_tiny") or of a detector; default: the bundled crack network.
        arch: architecture of a plain state dict (``.pth``).
        classes: its class names in index order.
        pretrained: "none": random weights for an architecture.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: "fp32", "bf16", or "auto": bf16 where the processor has it natively.
        engine: what computes predictions and evidence on a CPU: "torch", "onnx", "openvino", or "auto", see
            :mod:`crackcam.models.engines`.

    Weights that are not cached are downloaded, unless the environment variable ``HF_HUB_OFFLINE`` is 1.

    Raises:
        UserError: no such file or architecture; or its weights are not available.

    Examples:
        >>> import crackcam
        >>> crackcam.load().classes
        ['Negative', 'Positive']
    """
    weights = checkpoint.BUNDLED if source is None and arch is None else None
    if source is not None:
        path = Path(source)
        is_file = path.suffix in SUFFIXES or path.exists()
        weights, arch = (path, arch) if is_file else (None, str(source))
    config = ModelConfig(weights=weights, arch=arch, pretrained=pretrained, classes=tuple(classes) if classes else None)
    return Loader(config, ExactRuntimeConfig(device=device, precision=precision, engine=engine)).load()
