"""Batches of inputs, outputs and targets, whatever they are wrapped in.

A model's inputs may be a tensor, a tuple of positional arguments or a dict of keyword arguments; its outputs, and
those of a layer, a tensor, a tuple, a dict (``ModelOutput`` of transformers too) or, for detectors, a list with one
item for each picture. Here is the little that the engine needs to know of them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget, ClassifierOutputTarget, Target

Batch = Any  # a tensor, or tensors in tuples, lists and mappings

# What a caller may pass: one target or class index for each picture, a function of the output that makes them, or
# None for the class that the model predicts.
Targets = Sequence[Target | int] | torch.Tensor | Callable[[torch.Tensor], list[Target]] | None

# Where classifiers (transformers) and segmentation networks (torchvision) keep their scores.
SCORE_KEYS = ("logits", "out")


def tensors(batch: Batch) -> Iterator[torch.Tensor]:
    """All tensors, in order."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from tensors(value)


def each_tensor(change: Callable[[torch.Tensor], Any], batch: Batch) -> Batch:
    """The same structure with every tensor changed; what is no tensor stays."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        changed = copy.copy(batch)
        for key, value in batch.items():
            changed[key] = each_tensor(change, value)  # type: ignore[index]
        return changed
    if isinstance(batch, tuple | list):
        values = [each_tensor(change, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def call(model: torch.nn.Module, inputs: Batch) -> Batch:
    """Run the model on a tensor, on positional arguments (tuple, list) or on keyword arguments (dict)."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def pictures_of(inputs: Batch) -> torch.Tensor:
    """The tensor that a map is laid over: the first floating-point one with places, (N, C, *spatial).

    Raises:
        ValueError: there is none.
    """
    for tensor in tensors(inputs):
        if tensor.ndim >= 3 and tensor.is_floating_point():
            return tensor
    raise ValueError("the inputs hold no floating-point tensor of shape (pictures, channels, places...)")


def with_pictures(inputs: Batch, pictures: torch.Tensor) -> Batch:
    """The inputs with other pictures; other tensors are repeated where they were for one picture."""
    old = pictures_of(inputs)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor is old:
            return pictures
        one_each = tensor.ndim and len(tensor) == len(old) == 1
        return tensor.expand(len(pictures), *tensor.shape[1:]) if one_each else tensor

    return each_tensor(change, inputs)


def one_of(batch: Batch, index: int, size: int) -> Batch:
    """One picture's share of a batch of that size, still a batch (of one)."""
    return each_tensor(lambda t: t[index : index + 1] if t.ndim and len(t) == size else t, batch)


def scores_in(outputs: Batch) -> torch.Tensor:
    """The tensor of scores among a model's outputs: ``logits`` or ``out`` of a mapping, else the first tensor.

    Raises:
        ValueError: there is no tensor.
    """
    if isinstance(outputs, Mapping):
        outputs = next((outputs[key] for key in SCORE_KEYS if key in outputs), outputs)
    found = next(tensors(outputs), None)
    if found is None:
        raise ValueError("the model's output holds no tensor")
    return found


def split_outputs(outputs: Batch, size: int) -> list[Batch]:
    """What a target sees of each picture: its row of the scores, or its item where a detector returns a list."""
    if isinstance(outputs, list) and len(outputs) == size and not isinstance(outputs[0], torch.Tensor):
        return outputs
    return list(scores_in(outputs))


def resolve_targets(targets: Targets, outputs: Batch, size: int) -> list[Target]:
    """One target for each picture.

    Args:
        targets: see :data:`Targets`. None with a single logit a picture explains the side that it lies on.
        outputs: of the model.
        size: number of pictures.

    Raises:
        ValueError: the number of targets is not that of the pictures; or None where the output is not one score
            for each class.
    """
    if targets is None:
        scores = scores_in(outputs)
        if scores.ndim != 2:
            raise ValueError(
                f"targets=None needs outputs of shape (pictures, classes), not {tuple(scores.shape)}: pass targets"
            )
        if scores.shape[1] == 1:
            return [BinaryClassifierOutputTarget(int(score > 0)) for score in scores[:, 0].tolist()]
        targets = scores.argmax(dim=1)
    elif callable(targets):
        targets = targets(scores_in(outputs))
        if isinstance(targets, torch.Tensor) and targets.is_floating_point():  # it was a target
            raise ValueError("targets must be a list with one target for each picture, even for a single picture")
    if len(targets) != size:
        raise ValueError(f"{len(targets)} targets for {size} pictures: pass one for each picture")
    return [target if callable(target) else ClassifierOutputTarget(int(target)) for target in targets]


def target_scores(targets: Sequence[Target], outputs: Batch) -> torch.Tensor:
    """The explained number of each picture: (N,), differentiable where the outputs are.

    A target that returns several numbers stands for their sum.
    """
    if all(type(target) is ClassifierOutputTarget for target in targets):
        scores = scores_in(outputs)
        if scores.ndim == 2:  # the same, at once
            return scores[range(len(targets)), [target.category for target in targets]]  # type: ignore[attr-defined]
    of_pictures = zip(targets, split_outputs(outputs, len(targets)), strict=True)
    return torch.stack([target(output).sum() for target, output in of_pictures])
