"""Inputs, outputs and targets of a batch, as tensors or nested in tuples, lists and mappings.

A model's inputs may be a tensor, a tuple of positional arguments or a dict of keyword arguments. Its outputs, and those
of a layer, may be a tensor, a tuple, a dict (also a ``ModelOutput`` of transformers) or, for detectors, a list with one
item per image.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget, ClassifierOutputTarget, Target

Batch = Any  # a tensor, or tensors in tuples, lists and mappings

# What a caller may pass: one target or class index per image, a function that makes them from the model's output, or
# None for the predicted class.
Targets = Sequence[Target | int] | torch.Tensor | Callable[[torch.Tensor], list[Target]] | None

# Keys of the scores in the outputs of classifiers (transformers) and segmentation networks (torchvision).
SCORE_KEYS = ("logits", "out")


def tensors(batch: Batch) -> Iterator[torch.Tensor]:
    """Iterate over all tensors, in order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from tensors(value)


def map_tensors(change: Callable[[torch.Tensor], Any], batch: Batch) -> Batch:
    """Apply a function to every tensor and keep the structure and all other values."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        changed = copy.copy(batch)
        for key, value in batch.items():
            changed[key] = map_tensors(change, value)  # type: ignore[index]
        return changed
    if isinstance(batch, tuple | list):
        values = [map_tensors(change, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def call_model(model: torch.nn.Module, inputs: Batch) -> Batch:
    """Run the model on a tensor, on positional arguments (tuple, list) or on keyword arguments (dict)."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def images_in(inputs: Batch) -> torch.Tensor:
    """Find the image tensor among the inputs: the first floating-point one of shape (N, C, *spatial).

    Raises:
        ValueError: there is none.
    """
    for tensor in tensors(inputs):
        if tensor.ndim >= 3 and tensor.is_floating_point():
            return tensor
    raise ValueError("the inputs contain no floating-point tensor of shape (images, channels, *spatial)")


def with_images(inputs: Batch, images: torch.Tensor) -> Batch:
    """Replace the images among the inputs; tensors that belong to a single image are repeated for all new ones."""
    old = images_in(inputs)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor is old:
            return images
        one_each = tensor.ndim and len(tensor) == len(old) == 1
        return tensor.expand(len(images), *tensor.shape[1:]) if one_each else tensor

    return map_tensors(change, inputs)


def batch_item(batch: Batch, index: int, size: int) -> Batch:
    """Select one image of a batch of ``size`` images, as a batch of one."""
    return map_tensors(lambda t: t[index : index + 1] if t.ndim and len(t) == size else t, batch)


def scores_in(outputs: Batch) -> torch.Tensor:
    """Find the scores among a model's outputs: ``logits`` or ``out`` of a mapping, else the first tensor.

    Raises:
        ValueError: there is no tensor.
    """
    if isinstance(outputs, Mapping):
        outputs = next((outputs[key] for key in SCORE_KEYS if key in outputs), outputs)
    found = next(tensors(outputs), None)
    if found is None:
        raise ValueError("the model's output contains no tensor")
    return found


def split_outputs(outputs: Batch, size: int) -> list[Batch]:
    """Split a model's outputs by image: rows of the scores, or the items of a detector's list."""
    if isinstance(outputs, list) and len(outputs) == size and not isinstance(outputs[0], torch.Tensor):
        return outputs
    return list(scores_in(outputs))


def resolve_targets(targets: Targets, outputs: Batch, size: int) -> list[Target]:
    """Turn what a caller passed as ``targets`` into one target per image.

    Args:
        targets: see :data:`Targets`. With None and a single logit per image, the predicted side is explained.
        outputs: the model's output.
        size: number of images.

    Raises:
        ValueError: the number of targets differs from the number of images; or ``targets`` is None and the output is
            not of shape (images, classes).
    """
    if targets is None:
        scores = scores_in(outputs)
        if scores.ndim != 2:
            raise ValueError(
                f"targets=None needs outputs of shape (images, classes), not {tuple(scores.shape)}: pass targets"
            )
        if scores.shape[1] == 1:
            return [BinaryClassifierOutputTarget(int(score > 0)) for score in scores[:, 0].tolist()]
        targets = scores.argmax(dim=1)
    elif callable(targets):
        targets = targets(scores_in(outputs))
        if isinstance(targets, torch.Tensor) and targets.is_floating_point():  # a bare target was called
            raise ValueError("targets must be a list with one target per image, even for a single image")
    if len(targets) != size:
        raise ValueError(f"{len(targets)} targets for {size} images: pass one per image")
    return [target if callable(target) else ClassifierOutputTarget(int(target)) for target in targets]


def target_scores(targets: Sequence[Target], outputs: Batch) -> torch.Tensor:
    """Evaluate one target per image: (N,) scores, differentiable where the outputs are.

    The values of a target that returns several numbers are summed.
    """
    if all(type(target) is ClassifierOutputTarget for target in targets):
        scores = scores_in(outputs)
        if scores.ndim == 2:  # the same in one operation
            return scores[range(len(targets)), [target.category for target in targets]]  # type: ignore[attr-defined]
    pairs = zip(targets, split_outputs(outputs, len(targets)), strict=True)
    return torch.stack([target(output).sum() for target, output in pairs])
