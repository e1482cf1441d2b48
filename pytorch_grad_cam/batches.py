"""Inputs and outputs of a model: tensors, or tensors nested in tuples, lists, mappings and dataclasses.

A model's inputs may be a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of unbatched
images (C, H, W), the one argument of a detector. The images among them are the first floating-point tensor of shape
(N, C, *spatial), with two or more spatial dimensions where there is one. How outputs are read, see
``pytorch_grad_cam.outputs``.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

Batch = Any  # a tensor, or tensors in a structure


@dataclasses.dataclass(frozen=True)
class Shared:
    """An input that all images share, such as the texts of CLIP: it is neither sliced nor repeated."""

    tensor: torch.Tensor


def is_dataclass(batch: Any) -> bool:
    """Whether this is an instance of a dataclass that holds tensors."""
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type | Shared)


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
    elif is_dataclass(batch):
        for field in dataclasses.fields(batch):
            yield from tensors(getattr(batch, field.name))


def map_leaves(change: Callable[[Any], Any], batch: Batch) -> Batch:
    """Apply a function to everything that is no container, and keep the structure."""
    if isinstance(batch, Mapping):
        changed = copy.copy(batch)
        for key, value in batch.items():
            changed[key] = map_leaves(change, value)  # type: ignore[index]
        return changed
    if isinstance(batch, tuple | list):
        values = [map_leaves(change, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    if is_dataclass(batch):
        changed = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(changed, field.name, map_leaves(change, getattr(batch, field.name)))
        return changed
    return change(batch)


def map_tensors(change: Callable[[torch.Tensor], Any], batch: Batch) -> Batch:
    """Apply a function to every tensor and keep the structure and all other values."""
    return map_leaves(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf, batch)


# -- calls --------------------------------------------------------------------------------------------


def prepare(inputs: Batch, device: torch.device) -> Batch:
    """The inputs as plain tensors on a device: no subclass of its own behaviour, no graph, no inference tensor."""

    def plain(tensor: torch.Tensor) -> torch.Tensor:
        if type(tensor) is not torch.Tensor and not is_traceable_wrapper_subclass(tensor):
            tensor = tensor.as_subclass(torch.Tensor)
        return (tensor.clone() if tensor.is_inference() else tensor.detach()).to(device)

    return map_tensors(plain, inputs)


def call_model(model: Callable[..., Batch], inputs: Batch) -> Batch:
    """Run the model on copies of its inputs, since it may modify them in place, and methods use them again."""
    return call_without_copies(model, map_tensors(torch.clone, inputs))


def call_without_copies(model: Callable[..., Batch], inputs: Batch) -> Batch:
    """Run the model on a tensor, a list of images, positional arguments (tuple, list) or keyword arguments (dict)."""
    inputs = map_leaves(lambda leaf: leaf.tensor if isinstance(leaf, Shared) else leaf, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list) and not is_image_list(inputs):
        return model(*inputs)
    try:
        return model(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        if getattr(inputs, "ndim", 4) == 3:  # right for networks of one dimension
            error.add_note("If this input is one image (C, H, W), it lacks the axis of the batch: pass inputs[None].")
        raise


# -- images among the inputs --------------------------------------------------------------------------


def is_image_list(inputs: Batch) -> bool:
    """Whether the inputs are a list of unbatched images (C, H, W)."""
    return isinstance(inputs, list) and len(inputs) > 0 and all(_is_floating(item, 3) for item in inputs)


def _is_floating(value: Any, dimensions: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == dimensions and value.is_floating_point()


def image_tensors(inputs: Batch) -> list[torch.Tensor]:
    """All floating-point tensors (N, C, *spatial) among the inputs."""
    return [tensor for tensor in tensors(inputs) if tensor.ndim >= 3 and tensor.is_floating_point()]


def images_in(inputs: Batch) -> torch.Tensor:
    """Find the images among the inputs, (N, C, *spatial).

    Raises:
        ValueError: there are none, or those of a list differ in size.
    """
    if is_image_list(inputs):
        if len({image.shape for image in inputs}) > 1:
            raise ValueError("the images of a list must have one size: explain them one at a time")
        return torch.stack(inputs)
    found = image_tensors(inputs)
    if not found:
        raise ValueError("the inputs contain no floating-point tensor of shape (images, channels, *spatial)")
    return next((tensor for tensor in found if tensor.ndim >= 4), found[0])


def with_images(inputs: Batch, images: torch.Tensor) -> Batch:
    """Replace the images among the inputs; tensors that belong to a single image are repeated for all new ones."""
    if is_image_list(inputs):
        return list(images)
    old = images_in(inputs)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor is old:
            return images
        one_each = tensor.ndim and len(tensor) == len(old) == 1
        return tensor.expand(len(images), *tensor.shape[1:]) if one_each else tensor

    return map_tensors(change, inputs)


def batch_item(batch: Batch, index: int, size: int) -> Batch:
    """Select one image of a batch of ``size`` images, as a batch of one."""
    if is_image_list(batch):
        return batch[index : index + 1]
    return map_tensors(lambda t: t[index : index + 1] if t.ndim and len(t) == size else t, batch)


def copies_of_item(inputs: Batch, index: int, size: int, count: int) -> Batch:
    """One image of a batch of ``size`` images, ``count`` times."""
    item = batch_item(inputs, index, size)
    image = images_in(item)
    return with_images(item, image.expand(count, *image.shape[1:]))


def mark_shared(inputs: Batch, is_exact: Callable[[Batch], bool]) -> Batch:
    """Mark the inputs that all images share, for methods that run the images one by one.

    An input of another length than the images' batch is shared. One of the same length is shared, too, where the images
    alone give other scores than in the batch if it is sliced: as many texts as images, for example.

    Args:
        inputs: a batch.
        is_exact: whether images alone, taken from these inputs, have the scores that they have in the batch.

    Raises:
        ValueError: no choice of shared inputs is exact.
    """
    if isinstance(inputs, torch.Tensor) or is_image_list(inputs):
        return inputs
    images = images_in(inputs)
    found = list(tensors(inputs))
    others = [i for i, t in enumerate(found) if t is not images and t.ndim and len(t) == len(images)]
    for count in range(len(others), -1, -1):
        for sliced in itertools.combinations(others, count):
            marked = _marked(inputs, images, set(sliced))
            if not others or is_exact(marked):
                return marked
    raise ValueError(
        "an image alone has other scores than in its batch, whichever of the inputs are sliced: "
        "explain one image at a time, or make inputs that images share attributes of the model"
    )


def _marked(inputs: Batch, images: torch.Tensor, sliced: set[int]) -> Batch:
    """The inputs, all tensors shared but the images and those at the given positions."""
    positions = itertools.count()

    def mark(tensor: torch.Tensor) -> torch.Tensor | Shared:
        belongs = next(positions) in sliced or tensor is images
        return tensor if belongs else Shared(tensor)

    return map_tensors(mark, inputs)
