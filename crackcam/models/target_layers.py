"""Find the layers that a CAM can explain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.heads import head_name
from crackcam.models.image_order import COUNT, DRAWS, TYPICAL_SIZE, in_image_order, probe_images, responses
from crackcam.models.multiscale import Multiscale
from crackcam.text import first_line
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform

logger = logging.getLogger(__name__)

CANDIDATES = 5  # that a message names

Reshape = Callable[[torch.Tensor], torch.Tensor]


class Grid(NamedTuple):
    """Shape of a layer's output as (N, channels, height, width).

    Attributes:
        channels, height, width: of the grid.
        reshape: brings the output to that layout; None where it has it already.
    """

    channels: int
    height: int
    width: int
    reshape: Reshape | None = None


class TargetLayer(NamedTuple):
    """A layer to explain: its name as in ``model.named_modules()``, the module, and the grid of its output."""

    name: str
    module: nn.Module
    grid: Grid

    @property
    def reshape(self) -> Reshape | None:
        """Brings its output to (N, C, H, W) where it has another layout."""
        return self.grid.reshape


class Layers(NamedTuple):
    """What is known about the layers of a model.

    Attributes:
        grids: of each layer whose output is a grid in the order of the image, by name, in the order of execution.
        unproven: of layers whose order cannot be told, because all their positions respond to both halves alike.
        scrambled: layers whose output has the shape of a grid, but not the order of the image.
        target: the default target layer; None where there is none.
    """

    grids: dict[str, Grid]
    unproven: dict[str, Grid]
    scrambled: set[str]
    target: str | None

    def until_target(self) -> dict[str, Grid]:
        """The grids in image order, of the target's layout, up to the target; none where there is no target."""
        if self.target is None:
            return {}
        names = list(self.grids)
        until = {name: self.grids[name] for name in names[: names.index(self.target) + 1]}
        return {name: grid for name, grid in until.items() if grid.reshape is self.grids[self.target].reshape}


# By model: what the layers follow from, see _state, and the layers.
_known: WeakKeyDictionary[nn.Module, tuple[tuple, Layers]] = WeakKeyDictionary()


def grid_layers(model: nn.Module, image_size: int) -> tuple[dict[str, Grid], str | None]:
    """Layers that a CAM can explain: those whose output is a grid in the order of the image.

    Args:
        model: any classifier; as it was, afterwards.
        image_size: side of its inputs in pixels.

    Returns:
        The grid of each layer by name, in the order of execution; and the name of the default target layer: the last
        grid before pooling and head, under its outermost name. None where there is no grid.

    Raises:
        UserError: the model does not accept inputs of that size.
    """
    found = examine_layers(model, image_size)
    return found.grids, found.target


def examine_layers(model: nn.Module, image_size: int) -> Layers:
    """As :func:`grid_layers`, with layers that are no grid or may be none; remembered until the model changes."""
    state = _state(model, image_size)
    known, found = _known.get(model, ((), None))
    if found is None or known != state:
        found = _examine(model, image_size)
        _known[model] = state, found
    return found


def _state(model: nn.Module, image_size: int) -> tuple:
    """Image size, submodules and how often each parameter was written to."""
    modules = [module for module in model.modules() if module is not model]
    written = [0 if parameter.is_inference() else parameter._version for parameter in model.parameters()]
    return image_size, modules, written


class _Seen(NamedTuple):
    """A layer's output in one run: how it may be read as a grid, what responds where, and what it may be used for."""

    grid: Grid
    response: torch.Tensor
    may_be_target: bool  # before the head, and not pooled


def _examine(model: nn.Module, image_size: int) -> Layers:
    seen = _look(model, probe_images(image_size))
    verdicts = {key: in_image_order([each.response]) for key, each in seen.items()}
    if doubtful := [key for key, verdict in verdicts.items() if not verdict]:
        verdicts |= _verdicts_of_draws(model, image_size, doubtful)
    found = Layers({}, {}, set(), None)
    candidates = []
    for name in dict.fromkeys(name for name, _ in seen):
        best = min((key for key in seen if key[0] == name), key=lambda key: (True, None, False).index(verdicts[key]))
        verdict, (grid, _, may_be_target) = verdicts[best], seen[best]
        if verdict is False:
            found.scrambled.add(name)
            continue
        (found.unproven if verdict is None else found.grids)[name] = grid
        if verdict and may_be_target:
            candidates.append(name)
    target = next(reversed(candidates), None)
    if target is not None and found.grids[target].reshape is vit_reshape_transform:
        target = _last_tokens(model, image_size, candidates)
    return found._replace(target=target)


_Reading = tuple[str, Reshape | None]  # a layer, and how its output is brought to (N, C, H, W)


def _look(model: nn.Module, images: torch.Tensor, only: Collection[_Reading] | None = None) -> dict[_Reading, _Seen]:
    """Every reading of a layer's output as a grid, in the order of execution; or those of ``only``."""
    seen: dict[_Reading, _Seen] = {}
    pooled: list[torch.Tensor] = []
    at_head: list[torch.Tensor] = []

    def watch(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, torch.Tensor) or not len(output.shape) or len(output) != COUNT:
            return  # a window, a position bias
        if pools := "Pool" in type(module).__name__ or isinstance(module, nn.Dropout | nn.Softmax):
            pooled.append(output)
        usable = not pools and not at_head and not any(output is p for p in pooled)
        for grid in _readings(output):
            seen.pop((name, grid.reshape), None)  # a layer that runs again is where it ran last
            if only is not None and (name, grid.reshape) not in only:
                continue  # responses take longer than the layers
            response = responses(grid.reshape(output) if grid.reshape else output)
            seen[name, grid.reshape] = _Seen(grid, response, usable)

    with _hooks(model, watch, at_head), torch.no_grad():
        _run(model, images)
    return seen


def _verdicts_of_draws(model: nn.Module, image_size: int, doubtful: list[_Reading]) -> dict[_Reading, bool | None]:
    """Verdicts by several draws; of larger images than the model is for, where it takes them."""
    sizes = {max(image_size, TYPICAL_SIZE), image_size}
    for size in sorted(sizes, reverse=True):
        try:
            runs = [_look(model, probe_images(size, seed), doubtful) for seed in range(DRAWS)]
        except UserError:  # not this size
            continue
        return {
            key: in_image_order([run[key].response for run in runs]) for key in doubtful if all(key in r for r in runs)
        }
    return {}


@contextmanager
def _hooks(
    model: nn.Module, watch: Callable[[str, nn.Module, object], None], at_head: list[torch.Tensor]
) -> Iterator[None]:
    """Pass each layer's name, module and output to ``watch``, and collect the inputs of the head."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: watch(name, module, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    head = model.get_submodule(head_name(model))
    handles.append(head.register_forward_pre_hook(lambda module, inputs: at_head.append(inputs[0])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, images: torch.Tensor) -> Any:
    """The output of one forward pass in eval mode."""
    parameter = next(model.parameters())
    was_training = model.training
    try:
        model.eval()
        with torch.inference_mode(False):
            return model(images.to(parameter))
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"this model does not accept {images.shape[-1]} px inputs: {first_line(error)}") from None
    finally:
        model.train(was_training)


def _last_tokens(model: nn.Module, image_size: int, names: list[str]) -> str | None:
    """The last normalised tokens that the head depends on; behind the last attention, only the class token counts."""
    outputs: dict[str, torch.Tensor] = {}
    at_head: list[torch.Tensor] = []

    def watch(name: str, module: nn.Module, output: object) -> None:
        if name in names and isinstance(output, torch.Tensor) and output.ndim == 3:
            outputs[name] = output

    with _hooks(model, watch, at_head), torch.enable_grad():
        logits = _run(model, probe_images(image_size)[:1].requires_grad_())
    features = at_head[-1] if at_head else logits
    draw = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    gradients = torch.autograd.grad((features * draw).sum(), list(outputs.values()), allow_unused=True)
    relevant = [
        name
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and vit_reshape_transform(gradient).any()
    ]
    normalised = [name for name in relevant if "Norm" in type(model.get_submodule(name)).__name__]
    return next(reversed(normalised or relevant), None)


def grid_of(output: object) -> Grid | None:
    """The grid in a layer's output for a square input; None where there is none, or one of a single place."""
    return next(_readings(output), None)


def _readings(output: object) -> Iterator[Grid]:
    """The grids that an output may be, by its shape alone."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return
    if output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
        yield Grid(*output.shape[1:])
    if output.ndim == 4 and output.shape[1] == output.shape[2] > 1:
        yield Grid(output.shape[3], output.shape[1], output.shape[2], swinT_reshape_transform)
    if output.ndim == 3:
        with suppress(ValueError):
            channels, height, width = vit_reshape_transform(output).shape[1:]
            if height > 1:
                yield Grid(channels, height, width, vit_reshape_transform)


def find_target_layers(
    model: nn.Module,
    image_size: int,
    names: list[str] | None = None,
    stages: bool = False,
    dilated: nn.Module | None = None,
) -> list[TargetLayer]:
    """The layers to explain.

    Args:
        model: any classifier.
        image_size: side of its inputs in pixels.
        names: of the layers; None: the default target layer, see :func:`grid_layers`.
        stages: by default the last layer of each of the last three grid sizes instead.
        dilated: result of :func:`crackcam.models.output_stride.dilate`, to take the modules of these names from.

    Raises:
        UserError: a name is not a layer with a grid in the order of the image (all such layers are listed); there is
            none; or the layers' layouts differ.
    """
    if stages and not names and isinstance(model, Multiscale):
        return _stages_of_head(model, image_size, dilated or model)
    found = examine_layers(model, image_size)
    grids = {**found.grids, **found.unproven}
    if names:
        chosen = list(names)
    elif found.target is None:
        candidates = [*{grid: name for name, grid in grids.items()}.values()]  # the last of each
        hint = f": choose one with --layer, among others {', '.join(candidates[-CANDIDATES:])}" if candidates else ""
        raise UserError(f"no layer of this model is known to have a grid in the order of the image{hint}")
    else:
        chosen = _stages(found) if stages else [found.target]
    if isinstance(model, Multiscale):  # layers go by the names of the architecture
        chosen = [f"backbone.{name}" if f"backbone.{name}" in grids else name for name in chosen]
    for name in chosen:
        _check(name, found)
    if len({grids[name].reshape for name in chosen}) > 1:
        raise UserError(f"{' and '.join(chosen)} have different layouts: explain one at a time")
    return [TargetLayer(name, (dilated or model).get_submodule(name), grids[name]) for name in chosen]


def _check(name: str, found: Layers) -> None:
    """Raise UserError where a layer cannot be explained; warn where that is not known."""
    if name in found.scrambled:
        raise UserError(
            f"the output of layer {name!r} is not in the order of the image, so that a heatmap of it would be wrong; "
            f"available: {', '.join(found.grids)}"
        )
    if name in found.unproven:
        logger.warning("the whole image affects all positions of layer %s alike: its heatmap may mean nothing", name)
    elif name not in found.grids:
        raise UserError(f"no layer {name!r} with a grid; available: {', '.join(found.grids)}")


def _stages_of_head(model: Multiscale, image_size: int, explained: nn.Module) -> list[TargetLayer]:
    """The stages of a multiscale head: grids in image order, since its maps add up.

    One forward pass shows them; examining every layer would take seconds, and gigabytes at 448 pixels.
    """
    names = [f"backbone.{name}" for name in model.stages]
    grids: dict[str, Grid] = {}

    def watch(name: str, module: nn.Module, output: object) -> None:
        if name in names and isinstance(output, torch.Tensor):
            grids[name] = Grid(*output.shape[1:])

    with _hooks(model, watch, []), torch.no_grad():
        _run(model, probe_images(image_size)[:1])
    return [TargetLayer(name, explained.get_submodule(name), grids[name]) for name in names]


def _stages(found: Layers) -> list[str]:
    """The last layer of each of the last three grid sizes up to the target."""
    last = {grid.height: name for name, grid in found.until_target().items()}
    return list(last.values())[-3:]
