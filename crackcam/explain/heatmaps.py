"""Batches of images and a method -> heatmaps, at the model's own input size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.methods import EVIDENCE, METHODS, NAMED, method_class
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.target_layers import TargetLayer
from crackcam.progress import Progress
from pytorch_grad_cam.utils.maps import resize

MANY_COPIES = 20  # of an image; methods that run the model on more show their progress
NOT_SMOOTHED = f"{EVIDENCE} is the decision itself: leave --aug-smooth and --eigen-smooth out"


@dataclass(frozen=True)
class Technique:
    """How heatmaps are made: a method at its layers.

    Attributes:
        method: a name in :data:`crackcam.methods.NAMED`.
        layers: target layers.
        aug_smooth, eigen_smooth: as in :class:`pytorch_grad_cam.BaseCAM`.
    """

    method: str
    layers: list[TargetLayer] = field(default_factory=list)
    aug_smooth: bool = False
    eigen_smooth: bool = False

    @property
    def smoothing(self) -> dict[str, bool]:
        """The arguments of :class:`pytorch_grad_cam.BaseCAM`."""
        return {"aug_smooth": self.aug_smooth, "eigen_smooth": self.eigen_smooth}

    @property
    def smoothed(self) -> bool:
        """Whether either is asked for."""
        return self.aug_smooth or self.eigen_smooth

    @property
    def layer_names(self) -> list[str]:
        """Names of the target layers; none of a method that reads no layer in particular."""
        return [layer.name for layer in self.layers] if NAMED[self.method].uses_layers else []


def heatmaps(
    network: LoadedModel, technique: Technique, pixels: torch.Tensor, targets: Sequence[int], batch_size: int = 32
) -> torch.Tensor:
    """Explain images.

    Args:
        network: what is explained.
        technique: how.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each image.
        batch_size: images at a time; masked copies too, in methods that make them, but no more than they choose.

    Returns:
        (N, size, size) float32 on the device, >= 0, in the method's own unit; (N, 3, size, size), signed, where the
        method makes images.

    Raises:
        UserError: the method cannot explain this model; the message says why.
    """
    if technique.method == EVIDENCE:
        check_evidence(network, technique)
        return evidence_maps(network, pixels, targets, batch_size)
    explain = bind(network, technique)
    signed = NAMED[technique.method].signed_image
    if signed and technique.smoothed:
        raise UserError(f"{technique.method} makes images, not heatmaps: leave --aug-smooth and --eigen-smooth out")
    if not signed:
        explain.batch_size = min(batch_size, explain.batch_size)
    made = []
    with engine_errors(technique.method), show_progress(network.model, technique, len(pixels)):
        for start in range(0, len(pixels), batch_size):
            inputs = network.to_inputs(pixels[start : start + batch_size])
            chosen = list(targets[start : start + batch_size])
            with network.runtime.autocast():
                made.append(
                    explain.gradients(inputs, chosen)
                    if signed
                    else explain.maps(inputs, chosen, **technique.smoothing, normalize=False)
                )
    return torch.cat(made)


def predict_and_explain(
    network: LoadedModel, technique: Technique, pixels: torch.Tensor, target: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N, classes) and heatmaps (N, size, size) of one batch from a single forward pass.

    For methods of one pass, without ``aug_smooth``.

    Args:
        pixels: (N, 3, size, size) uint8.
        target: class to explain; None: the one predicted.
    """
    if technique.method == EVIDENCE:
        check_evidence(network, technique)
        evidence, logits = _evidence(network, pixels)
        probabilities = logits.float().softmax(1).cpu()
        return probabilities, _evidence_of(network, evidence, explained_classes(probabilities, target), pixels)
    explain = bind(network, technique)
    chosen = None if target is None else [target] * len(pixels)
    with engine_errors(technique.method), network.runtime.autocast():
        made = explain.maps(network.to_inputs(pixels), chosen, eigen_smooth=technique.eigen_smooth, normalize=False)
    return explain.outputs.float().softmax(1).cpu(), made


def explained_classes(probabilities: torch.Tensor, target: int | None) -> list[int]:
    """The class that each heatmap explains: the target, or the one predicted."""
    return probabilities.argmax(dim=1).tolist() if target is None else [target] * len(probabilities)


def evidence_maps(
    network: LoadedModel, pixels: torch.Tensor, targets: Sequence[int], batch_size: int = 32
) -> torch.Tensor:
    """Evidence for the class at each position, as a probability: what the logits of a multiscale head are sums of.

    Args:
        pixels: (N, 3, size, size) uint8.
        targets: class index for each image.

    Returns:
        (N, size, size) float32 in 0..1; 0 for a class whose map is masked out.

    Raises:
        UserError: the model has another head.
    """
    made = []
    for start in range(0, len(pixels), batch_size):
        part = pixels[start : start + batch_size]
        evidence, _ = _evidence(network, part)
        made.append(_evidence_of(network, evidence, targets[start : start + batch_size], part))
    return torch.cat(made)


def check_evidence(network: LoadedModel, technique: Technique) -> None:
    """Raises UserError where the model has another head, or smoothing is asked for."""
    if technique.smoothed:
        raise UserError(NOT_SMOOTHED)
    _multiscale(network.model)


def _multiscale(model: nn.Module) -> Multiscale:
    if not isinstance(model, Multiscale):
        raise UserError(f"--method {EVIDENCE} shows the map of --head multiscale: train a model with it")
    return model


def _evidence(network: LoadedModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a batch: evidence (N, classes, h, w), and the logits that are pooled from it."""
    evidence = torch.cat([network.evidence(part) for part in network.together(pixels)])
    with torch.inference_mode(), network.runtime.autocast():
        return evidence, _multiscale(network.model).pool(evidence)


def _evidence_of(
    network: LoadedModel, evidence: torch.Tensor, targets: Sequence[int], pixels: torch.Tensor
) -> torch.Tensor:
    """The map of each image's target, (N, size, size)."""
    with torch.inference_mode():
        mask = _multiscale(network.model).class_mask[list(targets), None, None]
        return resize(evidence[range(len(targets)), list(targets)].sigmoid() * mask, tuple(pixels.shape[2:]))


def bind(network: LoadedModel, technique: Technique) -> Any:
    """An object of the engine's class for the method, for this model and these layers."""
    cls = method_class(technique.method)
    if not METHODS[technique.method].uses_layers:
        return cls(network.model)
    reshape = next((layer.reshape for layer in technique.layers if layer.reshape), None)
    return cls(network.model, [layer.module for layer in technique.layers], reshape)


@contextmanager
def show_progress(model: nn.Module, technique: Technique, count: int) -> Iterator[None]:
    """Shows the progress of a method that runs the model on many copies of ``count`` images."""
    method = NAMED[technique.method]
    channels = max((layer.grid.channels for layer in technique.layers), default=0)
    copies = channels if method.forwards is None else method.forwards // (1 + 2 * method.gradients)
    if copies < MANY_COPIES:
        yield
        return
    with Progress(technique.method, count * copies, "forward pass") as progress:
        hook = model.register_forward_pre_hook(lambda module, inputs: progress.update(len(inputs[0])))
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def engine_errors(method: str) -> Iterator[None]:
    """Turns the engine's objections to a model into a UserError."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{method} cannot explain this: {error}") from error


def as_map(heatmap: torch.Tensor) -> torch.Tensor:
    """A heatmap (H, W) as it is; of a signed image (3, H, W), the largest magnitude over its channels."""
    return heatmap if heatmap.ndim == 2 else heatmap.abs().amax(dim=0)


def one_pass(method: str) -> bool:
    """Whether a prediction and its heatmap come from one forward pass."""
    return NAMED[method].forwards == 1 and not NAMED[method].signed_image
