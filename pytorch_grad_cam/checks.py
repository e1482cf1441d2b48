"""Checks of a layer's maps: whether they lie over the images, and why one is empty."""

import warnings

import torch

from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients, forward_hooks
from pytorch_grad_cam.batches import Batch, call_model, images_in, map_tensors, tensors, with_images
from pytorch_grad_cam.outputs import Targets, resolve_targets, target_scores
from pytorch_grad_cam.visibility import name_of

EXAMPLES = 3  # layers that a warning names


class EmptyHeatmapWarning(UserWarning):
    """A heatmap is 0 everywhere, because of the layer."""


class NoEvidenceWarning(EmptyHeatmapWarning):
    """A heatmap is 0 everywhere, because nothing in the image supports the target."""


def heatmap_size(layer_map: torch.Tensor, images: torch.Tensor, rows: int) -> tuple[int, ...]:
    """Size to which the maps of a layer are resized: the images'.

    There is a map for each image, for each row of the output where the model merges images, or, of layers with two
    spatial dimensions in networks of video, for each frame.

    Args:
        layer_map: (M, *spatial).
        images: (N, C, *spatial).
        rows: number of rows of the model's output.

    Raises:
        ValueError: the layer's maps are of another number or dimension.
    """
    maps, size = len(layer_map), tuple(images.shape[2:])
    frames = {len(images) * count for count in images.shape[1:3]} if images.ndim == 5 else set()
    if layer_map.ndim == 3 and maps in frames:
        return size[1:]
    if layer_map.ndim != images.ndim - 1:
        raise ValueError(
            f"the target layer has maps with {layer_map.ndim - 1} spatial dimensions, the images have {len(size)}: "
            "pass a reshape_transform that makes (images, channels, *spatial) of its output"
        )
    if maps not in (len(images), rows):
        raise ValueError(
            f"the target layer has {maps} maps for {len(images)} images, so that its rows are not images: "
            "choose another layer, or pass a reshape_transform that puts the rows of an image together"
        )
    return size


def warn_of_empty_maps(
    recorder: ActivationsAndGradients, inputs: Batch, targets: Targets, layer_maps: list[torch.Tensor]
) -> None:
    """Warn where maps of a layer are the same everywhere, and say why: they become heatmaps of zeros.

    Args:
        recorder: holds the run.
        inputs: of the run.
        targets: as passed by the caller.
        layer_maps: (N, *spatial) of each layer.
    """
    for index, layer_map in enumerate(layer_maps):
        flat = layer_map.flatten(1)
        empty = flat.amax(dim=1) == flat.amin(dim=1)
        if bool(empty.any()):
            warnings.warn(_reason(recorder, inputs, targets, index, empty, flat), stacklevel=3)


def _reason(
    recorder: ActivationsAndGradients,
    inputs: Batch,
    targets: Targets,
    index: int,
    empty: torch.Tensor,
    flat: torch.Tensor,
) -> EmptyHeatmapWarning:
    start = "a heatmap is 0 everywhere: "
    if index >= len(recorder.layer_outputs):
        return NoEvidenceWarning(f"{start}nothing in the image supports the target")
    name = name_of(recorder.model, recorder.target_layers[index])
    if flat.shape[1] == 1:
        return EmptyHeatmapWarning(f"{start}layer {name} has a single position; choose an earlier layer")
    gradients = recorder.gradients
    if index < len(gradients):
        gradient = gradients[index] if recorder.detach else recorder.shaped(gradients[index])
        if bool((empty & ~gradient.flatten(1).any(dim=1)).any()):
            found = layers_with_gradient(recorder, inputs, targets, index)
            advice = f"layers that would do: {', '.join(found)}" if found else "choose an earlier layer"
            return EmptyHeatmapWarning(
                f"{start}nothing reaches the target from layer {name}, its gradient is 0; {advice}"
            )
    if bool(flat[empty].any()):
        return EmptyHeatmapWarning(f"{start}layer {name} has the same value at all positions")
    return NoEvidenceWarning(
        f"{start}nothing at layer {name} supports the target; "
        "maps(..., normalize=False, relu=False) shows evidence against it"
    )


def layers_with_gradient(recorder: ActivationsAndGradients, inputs: Batch, targets: Targets, index: int) -> list[str]:
    """Names of the last layers whose output has the same shape and a gradient for every image."""
    images = images_in(inputs)
    shape = next(tensors(recorder.layer_outputs[index])).shape
    named = [(name, module) for name, module in recorder.model.named_modules() if name]
    outputs_by_name: dict[str, torch.Tensor] = {}

    def record(position: int, output: Batch) -> Batch:
        first = next(tensors(output), None)
        if first is not None and first.shape == shape and first.requires_grad:
            outputs_by_name[named[position][0]] = first
        return map_tensors(torch.clone, output)  # later modules may work in place

    with torch.enable_grad(), forward_hooks([module for _, module in named], record):
        outputs = call_model(recorder.model, with_images(inputs, images.detach().clone().requires_grad_()))
        score = target_scores(resolve_targets(targets, outputs, len(images)), outputs).sum()
        gradients = torch.autograd.grad(score, list(outputs_by_name.values()), allow_unused=True)
    found = [
        name
        for name, gradient in zip(outputs_by_name, gradients, strict=True)
        if gradient is not None and bool(recorder.shaped(gradient).flatten(1).any(dim=1).all())
    ]
    return found[-EXAMPLES:]
