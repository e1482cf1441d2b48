"""Questions about the autograd graph: what a tensor depends on, and which run of a layer belongs to the images."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, call_model, image_tensors, images_in, is_image_list, map_tensors, tensors
from pytorch_grad_cam.visibility import name_of, why_not_run

Module = torch.nn.Module
Node = Any  # of the autograd graph


def nodes_below(starts: Collection[Node | None]) -> Iterator[Node]:
    """Iterate over all nodes of the autograd graph from which these are computed, including themselves."""
    found = {node for node in starts if node is not None}
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        yield node
        following = {below for below, _ in node.next_functions if below is not None} - found
        found |= following
        waiting += following


class History:
    """What the tensors of a batch were computed from: ``tensor in History(batch)``."""

    def __init__(self, batch: Batch) -> None:
        self.nodes = set(nodes_below([tensor.grad_fn for tensor in tensors(batch)]))
        self.leaves = {id(node.variable) for node in self.nodes if hasattr(node, "variable")}

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.leaves if tensor.grad_fn is None else tensor.grad_fn in self.nodes

    def includes(self, batch: Batch) -> bool:
        """Whether any tensor of another batch is among them."""
        return any(tensor in self for tensor in tensors(batch))


def run_of_images(model: Module, inputs: Batch, layer: Module, outputs: list[Batch]) -> int:
    """Index of the run of a layer whose output lies over the images.

    A run belongs to the images if its output depends on them and on as few other images as any: of a siamese network,
    the run on the first image. Among several such runs the last is taken, if it depends on all the others (as in
    recurrent networks, and where blocks share weights).

    Where there are several runs or images, one more forward pass in autograd, which stores nothing, shows what depends
    on what, unless the graph of the outputs does.

    Args:
        model: the model.
        inputs: a batch.
        layer: a module of the model.
        outputs: what it returned in each of its runs.

    Raises:
        ValueError: the layer did not run, or on other images only; or several runs belong to the images and do not
            follow from one another.
    """
    if not outputs:
        reason = why_not_run(model, layer)
        raise ValueError(f"target layer {name_of(model, layer)} did not run in the forward pass{reason}")
    *earlier, last = outputs
    several = len(image_tensors(inputs)) > 1 and not is_image_list(inputs)
    if not several and (not earlier or all(map(History(last).includes, earlier))):
        return len(earlier)
    runs = _trace(model, inputs, layer)
    found = [run for run, (images, _) in enumerate(runs) if 0 in images]
    if not found and any(images for images, _ in runs):
        raise ValueError(
            f"target layer {name_of(model, layer)} does not depend on the explained images, "
            "which are the first among the inputs: pass the inputs as a dict, with the images of this layer first"
        )
    if not found and not (several and earlier):  # the graph is cut below the layer
        found = list(range(len(runs)))
    fewest = min((len(runs[run][0]) for run in found), default=0)
    found = [run for run in found if len(runs[run][0]) == fewest]
    if found and runs[found[-1]][1].issuperset(found[:-1]):
        return found[-1]
    raise ValueError(
        f"target layer {name_of(model, layer)} runs {len(outputs)} times side by side, and it is not clear which run "
        "belongs to the images: choose a layer that runs once, or pass the images of each run as an input of its own"
    )


def _trace(model: Module, inputs: Batch, layer: Module) -> list[tuple[set[int], set[int]]]:
    """For each run of a layer: the images (0 are those explained) and the earlier runs that its output depends on."""
    explained = images_in(inputs)
    leaves: list[tuple[int, torch.Tensor]] = []

    def leaf(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        copy = tensor.detach().clone().requires_grad_()
        if tensor.ndim >= 3:
            leaves.append((0 if tensor is explained or is_image_list(inputs) else len(leaves) + 1, copy))
        return copy

    runs: list[Batch] = []

    def mark(module: Module, arguments: Any, output: Batch) -> Batch:
        runs.append(map_tensors(torch.clone, output))
        return runs[-1]

    with ExitStack() as stack:
        for module in model.modules():  # also where the model disables autograd around them
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(lambda *_: _enable_autograd()).remove)
        stack.callback(layer.register_forward_hook(mark).remove)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing))
        traced = map_tensors(leaf, inputs)
        call_model(model, traced)
    dependencies = []
    for run, output in enumerate(runs):
        history = History(output)
        images = {index for index, tensor in leaves if tensor in history}
        dependencies.append((images, {other for other in range(run) if history.includes(runs[other])}))
    return dependencies


def _enable_autograd() -> None:
    torch.set_grad_enabled(True)
