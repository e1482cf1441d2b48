"""A model that is ready to run, and what is known about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models import engines
from crackcam.models.inference import InferenceCopies, folded, images_at_a_time
from crackcam.models.multiscale import Multiscale
from crackcam.preprocessing import Preprocessing
from crackcam.runtime import TORCH, Runtime
from crackcam.text import counted
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedModel:
    """A model with its card, on its device.

    Attributes:
        model: maps (N, 3, H, W) normalised float32 to logits (N, classes); in eval mode.
        card: what is known about it.
        runtime: where and how it computes.
        path: its checkpoint; None where there is none.
        tiled: whether large images may be read in tiles, see :mod:`crackcam.models.tiles`; else they are resized.
    """

    model: nn.Module
    card: ModelCard
    runtime: Runtime = field(default_factory=Runtime)
    path: Path | None = None
    tiled: bool = True
    _fitting: int | None = field(default=None, repr=False)  # images at a time, where a batch was too large
    _copies: InferenceCopies = field(default_factory=InferenceCopies, repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the model's input."""
        return self.card.preprocessing

    @property
    def source(self) -> str:
        """The checkpoint, or where the weights come from."""
        return str(self.path or self.card.pretrained)

    def with_model(self, model: nn.Module) -> LoadedModel:
        """The same with another model, in torch: dilated, say."""
        return LoadedModel(model, self.card, replace(self.runtime, engine=TORCH), self.path, self.tiled)

    def without_tiles(self) -> LoadedModel:
        """The same, resizing images whatever their size."""
        return LoadedModel(self.model, self.card, self.runtime, self.path, tiled=False, _copies=self._copies)

    def without_crop(self) -> LoadedModel:
        """The same, seeing whole images where it predicts from their centre: squashed to its square."""
        if self.card.resize is None:
            return self
        card = replace(self.card, resize=None)
        return LoadedModel(self.model, card, self.runtime, self.path, self.tiled, _copies=self._copies)

    def to_pixels(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Images (H, W, 3) uint8 of any size -> (N, 3, size, size) uint8 on the CPU, as in training."""
        return stack([self.preprocessing.apply(image) for image in images])

    def to_inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) uint8 -> what the model takes: normalised float32 on the device, channels last."""
        return self.preprocessing.normalize(pixels, self.runtime.device)

    @property
    def inference_model(self) -> nn.Module:
        """What predicts: the model, or a copy that computes the same faster, see :mod:`crackcam.models.inference`.

        To be asked for before each batch: the model may have changed.

        Raises:
            UserError: the engine cannot compute this model.
        """
        if self.runtime.device.type != "cpu":
            return self.model
        engine = self.runtime.engine
        make = folded if engine == TORCH else partial(engines.convert, engine=engine)
        return self._copies.of(self.model, self.preprocessing.size, make)

    def use_engine(self, name: str) -> None:
        """Predict with an engine from now on: "torch", "onnx", "openvino", or "auto".

        Raises:
            UserError: it cannot compute this model, or not there; then nothing changes.
        """
        before = self.runtime, self._copies
        chosen = engines.resolve(name, self.runtime)
        self.runtime, self._copies = replace(self.runtime, engine=chosen), InferenceCopies()
        try:
            _ = self.inference_model  # exported now
        except UserError:
            self.runtime, self._copies = before
            raise

    def evidence(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of one batch, (N, 3, H, W) uint8, by a multiscale head: (N, classes, h, w) float32 on the device."""
        model = self.inference_model
        assert isinstance(model, Multiscale | engines.EngineModel)
        with torch.inference_mode(), self.runtime.autocast():
            return model.evidence(self.to_inputs(pixels)).float()

    def together(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A batch (N, 3, H, W) uint8 in parts of as many images as are computed best at a time."""
        return pixels.split(self._fitting or images_at_a_time(self.runtime.device, pixels))

    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of one batch, (N, 3, size, size) uint8: (N, classes) float32 on the device, which may still be computing.

        Where a GPU has not enough memory, half the batch is tried, and half of that; what fits is remembered.
        """
        parts = self.together(pixels)
        try:
            model = self.inference_model
            with torch.inference_mode(), self.runtime.autocast():
                made = [model(self.to_inputs(part)).float().softmax(1) for part in parts]
            return torch.cat(made) if len(made) > 1 else made[0]
        except torch.OutOfMemoryError:
            if len(parts[0]) == 1:
                raise
        self._fitting = len(parts[0]) // 2
        logger.info("out of memory: continuing with %s at a time", counted(self._fitting, "image"))
        torch.cuda.empty_cache()
        return self.probabilities(pixels)

    def all_probabilities(self, pixels: torch.Tensor, batch_size: int) -> np.ndarray:
        """As :meth:`probabilities`, batch by batch: (N, classes) float32."""
        return torch.cat([self.probabilities(part).cpu() for part in pixels.split(batch_size)]).numpy()


def stack(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Images of one size, (H, W, 3) uint8 -> (N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
