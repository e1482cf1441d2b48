"""What a model's output is: scores, rows of an image, targets.

An output may be a tensor, a structure of tensors (tuple, list, mapping, dataclass, ``ModelOutput`` of transformers), or
a detector's list with one item per image. Class indices and the predefined targets are about the scores: the tensor of
that name, the only tensor, or the only one of shape (images, classes). Every other target gets the whole output of its
image, in the model's own structure.
"""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from pytorch_grad_cam.batches import Batch, is_dataclass, map_tensors, tensors
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputTarget,
    ClassTarget,
    ScoresTarget,
    Target,
    require_class,
)

# What a caller may pass: one target or class index for each image, one class index for all, a function that makes them
# from the scores, or None (also in a list) for the predicted class.
Targets = Sequence[Target | int | None] | torch.Tensor | int | Callable[[torch.Tensor], Any] | None

# Names of the scores in the outputs of classifiers (transformers), segmentation networks (torchvision) and CLIP.
SCORE_KEYS = ("logits", "out", "logits_per_image")

TOLERANCE = 1e-3  # rounding, also in half precision, where a batch has another size


# -- scores -------------------------------------------------------------------------------------------


def scores_in(outputs: Batch) -> torch.Tensor:
    """Find the scores among a model's outputs.

    Raises:
        ValueError: there is no tensor, or it is not clear which one holds the scores.
    """
    scores = _find_scores(outputs)
    if scores is None:
        if next(tensors(outputs), None) is None:
            raise ValueError("the model's output contains no tensor")
        raise ValueError(
            f"the model returns several tensors, {_description(outputs)}: pass targets that choose one, "
            "for example [lambda output: output[1][class_index]] for the second of a tuple"
        )
    return scores


def _find_scores(outputs: Batch) -> torch.Tensor | None:
    named = _scores_by_name(outputs)
    if len(named) == 1:
        return named[0]
    found = list(tensors(outputs))
    if len(found) > 1:
        found = [] if named else [tensor for tensor in found if tensor.ndim == 2]
    return found[0] if len(found) == 1 else None


def _scores_by_name(outputs: Batch) -> list[torch.Tensor]:
    """Tensors under the first known name that occurs, at the outermost level where one does."""
    fields = _fields(outputs)
    for key in SCORE_KEYS:
        if isinstance(fields.get(key), torch.Tensor):
            return [fields[key]]
    inner = fields.values() if fields else outputs if isinstance(outputs, tuple | list) else ()
    return [scores for value in inner for scores in _scores_by_name(value)]


def _fields(outputs: Batch) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        return outputs
    if hasattr(outputs, "_asdict"):
        return outputs._asdict()
    return {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)} if is_dataclass(outputs) else {}


def _description(outputs: Batch) -> str:
    items = outputs if isinstance(outputs, tuple | list) else [outputs]
    fields = _fields(outputs) or {str(position): item for position, item in enumerate(items)}
    shapes = {key: [tuple(tensor.shape) for tensor in tensors(value)] for key, value in fields.items()}
    return ", ".join(f"{key}: {' and '.join(map(str, found))}" for key, found in shapes.items() if found)


# -- rows ---------------------------------------------------------------------------------------------


def count_rows(outputs: Batch, size: int) -> int:
    """Number of rows in the output for a batch of ``size`` images.

    One for each image; fewer where the model merges images (the frames of a video); one where it squeezed the batch
    dimension of a single image.
    """
    if _is_item_list(outputs, size):
        return size
    scores = _find_scores(outputs)
    if scores is None:
        lengths = {len(tensor) for tensor in tensors(outputs) if tensor.ndim}
        return lengths.pop() if len(lengths) == 1 and size > 1 else size
    squeezed = scores.ndim == 0 or (len(scores) != size and (scores.ndim == 1 or size == 1))
    return 1 if squeezed else len(scores)


def _is_item_list(outputs: Batch, count: int) -> bool:
    """Whether this is a list with one item for each of ``count`` images: a structure, or a row of scores."""

    def is_batch(item: Any) -> bool:
        return isinstance(item, torch.Tensor) and (item.ndim != 1 or len(item) == count)

    return isinstance(outputs, list) and len(outputs) == count and not any(map(is_batch, outputs))


def split_outputs(outputs: Batch, rows: int) -> list[Batch]:
    """Split a model's output by row, in its structure: items of a detector's list, or rows of all tensors."""
    if _is_item_list(outputs, rows):
        return outputs
    return [_row(outputs, row, rows) for row in range(rows)]


def _row(outputs: Batch, row: int, rows: int) -> Batch:
    return map_tensors(lambda t: t[row] if t.ndim and len(t) == rows else t, outputs)


def class_scores(outputs: Batch, rows: int) -> torch.Tensor:
    """The scores as (rows, K), also where the model has squeezed them.

    Raises:
        ValueError: they have another shape.
    """
    scores = scores_in(outputs)
    if scores.ndim < 2:
        scores = scores.reshape(rows, -1)
    if scores.ndim != 2:
        raise ValueError(
            f"targets=None needs outputs of shape (images, classes), not {tuple(scores.shape)}: pass targets"
        )
    return scores


def same_scores(outputs: Batch, others: Batch) -> bool:
    """Whether two rows have the same scores up to rounding, or all tensors where it is not clear which one counts."""
    pairs = [list(tensors(row)) if _find_scores(row) is None else [scores_in(row)] for row in (outputs, others)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    for found, expected in zip(*pairs, strict=True):
        found, expected = found.float(), expected.float()
        if found.shape != expected.shape:
            return False
        tolerance = TOLERANCE * (1 + float(expected.abs().max())) if expected.numel() else 0
        if not bool(((found - expected).abs() <= tolerance).all()):
            return False
    return True


# -- targets ------------------------------------------------------------------------------------------


def resolve_targets(targets: Targets, outputs: Batch, size: int) -> list[Target]:
    """Turn what a caller passed as ``targets`` into one target per row of the output.

    Args:
        targets: see :data:`Targets`. With None and a single logit per image, the predicted side is explained.
        outputs: the model's output.
        size: number of images.

    Raises:
        ValueError: the number of targets differs from the number of rows; or ``targets`` is None and the output is not
            of shape (images, classes).
        TypeError: a target is neither a class index nor callable.
    """
    rows = count_rows(outputs, size)
    if callable(targets):
        targets = targets(class_scores(outputs, rows))
        if isinstance(targets, torch.Tensor) and targets.is_floating_point():  # a bare target was called
            raise ValueError("targets must be a list with one target per image, even for a single image")
    one = targets is None or not hasattr(targets, "__len__") or getattr(targets, "ndim", 1) == 0
    given = [targets] * rows if one else list(cast(Sequence, targets))
    if len(given) != rows:
        merged = "" if rows == size else f", which the model merges into {rows} outputs"
        raise ValueError(
            f"{len(given)} targets for {size} images{merged}: pass one per {'output' if merged else 'image'}"
        )
    predicted: Sequence[Target | None]
    predicted = _predicted(outputs, rows) if any(target is None for target in given) else [None] * rows
    return [_resolved(target, of_row) for target, of_row in zip(given, predicted, strict=True)]


def _predicted(outputs: Batch, rows: int) -> list[Target]:
    scores = class_scores(outputs, rows)
    if scores.shape[1] == 1:
        return [BinaryClassifierOutputTarget(int(score > 0)) for score in scores[:, 0].tolist()]
    return [ClassifierOutputTarget(category) for category in scores.argmax(dim=1).tolist()]


def _resolved(target: Any, predicted: Target | None) -> Target:
    if target is None or (callable(target) and not isinstance(target, torch.Tensor)):
        return predicted if target is None else target  # type: ignore[return-value]
    try:
        if isinstance(target, bool) or getattr(target, "dtype", None) in (torch.bool, bool):
            raise TypeError
        return ClassifierOutputTarget(operator.index(target))
    except TypeError:
        raise TypeError(f"a target is a class index, a callable or None, not {target!r}") from None


def target_scores(targets: Sequence[Target], outputs: Batch) -> torch.Tensor:
    """Evaluate one target per row of the output: (rows,) scores, differentiable where the outputs are.

    The values of a target that returns several numbers are summed.

    Raises:
        ValueError: a class index meets outputs that are not (images, classes), or a target has no gradient although the
            outputs have one.
        IndexError: there is no such class.
    """
    rows = len(targets)
    items = _is_item_list(outputs, rows)
    if not items and all(type(target) is ClassifierOutputTarget for target in targets):
        scores = scores_in(outputs)
        if scores.ndim == 2 and len(scores) == rows:  # the same in one operation
            categories = [require_class(scores[0], target.category) for target in targets]  # type: ignore[attr-defined]
            return scores[range(rows), categories]
    whole = split_outputs(outputs, rows)
    scores_of = whole
    if any(isinstance(target, ScoresTarget) for target in targets):
        scores_of = [scores_in(item) for item in outputs] if items else split_outputs(scores_in(outputs), rows)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors(outputs))
    values: list[torch.Tensor] = []
    for target, scores, output in zip(targets, scores_of, whole, strict=True):
        value = _value(target, scores if isinstance(target, ScoresTarget) else output)
        if differentiable and not value.requires_grad:
            raise ValueError(
                "a target does not depend on the model's output: it returned a number without a gradient; "
                "compute it from the output by torch operations, without item(), argmax() or detach()"
            )
        values.append(value.to(values[0]) if values else value)
    return torch.stack(values)


def _value(target: Target, output: Batch) -> torch.Tensor:
    if isinstance(target, ClassTarget) and output.ndim > 1:
        raise ValueError(
            f"a class index needs one score per class, not an output of shape {tuple(output.shape)} for an image: "
            "use SemanticSegmentationTarget(category, mask), or a callable that returns one number"
        )
    if isinstance(target, BinaryClassifierOutputTarget) and output.ndim == 1 and len(output) > 1:
        raise ValueError(f"BinaryClassifierOutputTarget is for a single logit, not {len(output)}: pass a class index")
    value = target(output)
    if isinstance(value, torch.Tensor):
        return value.sum()
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"a target must return a scalar tensor, not {value!r}")
    return torch.as_tensor(float(value), device=next(tensors(output)).device)
