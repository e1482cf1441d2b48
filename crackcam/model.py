"""Networks: any torchvision classifier, with ImageNet weights where they can be had and a head for our classes.

Nothing is known about single architectures. The head is the last layer with 1000 outputs; the CAM target layer is
found by watching one run: the last place where the network still has a grid, before anything pools it.
"""

from __future__ import annotations

import difflib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from crackcam.console import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
NETWORK_TIMEOUT = 10  # seconds without a byte after which a download is given up
# Auxiliary classifiers have heads of their own and serve training from scratch on ImageNet only.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
EXTRA_ARGUMENTS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


class TargetLayer(NamedTuple):
    """A layer to explain.

    Attributes:
        name: as in ``model.named_modules()``.
        module: the layer.
        reshape: brings its output to (N, C, H, W) where it is not; else None.
    """

    name: str
    module: nn.Module
    reshape: Callable[[torch.Tensor], torch.Tensor] | None = None


class WeightsUnavailableError(Exception):
    """ImageNet weights could not be had; the message says why."""


# -- building ----------------------------------------------------------------------------------------------


def check_arch(arch: str) -> None:
    """Raises UserError, with close names, where torchvision has no such classifier."""
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=5, cutoff=0.4) or known
        raise UserError(f"no architecture {arch!r} in torchvision; close to it: {', '.join(close)}")


def build(arch: str, classes: int, imagenet: bool = False) -> nn.Module:
    """A classifier with a fresh head.

    Args:
        arch: name in ``torchvision.models``.
        classes: outputs of the head.
        imagenet: load ImageNet weights into everything but the head, by download or from torch's cache.

    Raises:
        UserError: unknown architecture.
        WeightsUnavailableError: the weights cannot be had.
    """
    model = imagenet_network(arch) if imagenet else _bare_network(arch)
    _replace_head(model, classes)
    return model


def imagenet_network(arch: str) -> nn.Module:
    """A classifier of ImageNet's 1,000 classes as torchvision has it; raises as :func:`build`."""
    model = _bare_network(arch)
    missing, _ = model.load_state_dict(imagenet_state(arch), strict=False)  # surplus: auxiliary heads
    if missing:
        raise WeightsUnavailableError(f"the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    return model


def _bare_network(arch: str) -> nn.Module:
    check_arch(arch)
    return torchvision.models.get_model(arch, weights=None, **EXTRA_ARGUMENTS.get(arch, {}))


def imagenet_weights(arch: str) -> Any:
    """The entry of torchvision's weights that stands for the architecture: categories, transforms, address."""
    return torchvision.models.get_model_weights(arch).DEFAULT


def imagenet_state(arch: str) -> dict[str, torch.Tensor]:
    """ImageNet weights, from torch's cache or downloaded; raises WeightsUnavailableError within seconds."""
    weights = imagenet_weights(arch)
    try:
        # torch says on stdout, where our results go, that it downloads
        with _socket_timeout(NETWORK_TIMEOUT), redirect_stdout(sys.stderr):
            return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # network, proxy, disk, wrong hash, damaged cache: the reason is what matters
        reason = error.reason if type(error) is URLError else error
        raise WeightsUnavailableError(" ".join(str(reason).split()) or type(reason).__name__) from None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def load_backbone(model: nn.Module, path: Path) -> None:
    """Weights of a file, all but its head, into a model of the same architecture.

    Args:
        path: a checkpoint of ours, or a state dict saved with torch.save.

    Raises:
        UserError: no such file, damaged, or of another architecture.
    """
    from crackcam.checkpoint import read_tensors

    head = head_name(model)
    state, own = read_tensors(path), model.state_dict()
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    wanted = {name for name in own if not name.startswith(f"{head}.")}
    unlike = [n for n in wanted if n not in backbone or backbone[n].shape != own[n].shape]
    if unlike:
        raise UserError(f"{path} holds another architecture: {min(unlike)} is missing or of another shape")
    model.load_state_dict({n: backbone[n] for n in wanted}, strict=False)


# -- head ----------------------------------------------------------------------------------------------------


def _replace_head(model: nn.Module, classes: int) -> None:
    name = _last_layer(model, IMAGENET_CLASSES)
    old = cast("nn.Linear | nn.Conv2d", model.get_submodule(name))
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes)
    else:
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1)
        # SqueezeNet rectifies its class maps before pooling; logits need their sign.
        parent, _, index = name.rpartition(".")
        siblings = list(model.get_submodule(parent).named_children())
        following = siblings[[child for child, _ in siblings].index(index) + 1]
        if isinstance(following[1], nn.ReLU):
            model.get_submodule(parent).register_module(following[0], nn.Identity())
    nn.init.normal_(new.weight, std=0.01)
    nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, new)


def _last_layer(model: nn.Module, outputs: int | None = None) -> str:
    named = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    sizes = {n: m.out_features if isinstance(m, nn.Linear) else m.out_channels for n, m in named}
    return [n for n, _ in named if outputs is None or sizes[n] == outputs][-1]


def head_name(model: nn.Module) -> str:
    """Name of the last layer, which makes the logits."""
    return _last_layer(model)


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects what reaches the head in each run, pooled over places: (N, features)."""
    seen: list[torch.Tensor] = []

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (features,) = inputs
        seen.append(features.flatten(2).mean(dim=2) if features.ndim == 4 else features)

    handle = model.get_submodule(head_name(model)).register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def set_linear_head(model: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Puts (classes, features) weights and (classes,) biases into the head, linear or 1x1 convolution."""
    head = dict(model.get_submodule(head_name(model)).named_parameters())
    with torch.no_grad():
        head["weight"].copy_(weight.reshape(head["weight"].shape))
        head["bias"].copy_(bias)


# -- target layer ----------------------------------------------------------------------------------------------


def grid_layers(model: nn.Module, image_size: int) -> tuple[dict[str, tuple[int, int, int]], str | None]:
    """Layers that a CAM can explain: those that put out a grid.

    Returns:
        (C, H, W) of each layer's output by name, in the order of a run; and the name of the default target:
        the last grid before pooling and head, under the outermost name that it goes by. None where the
        network has none.
    """
    grids: dict[str, tuple[int, int, int]] = {}
    head = model.get_submodule(head_name(model))
    pooled: list[torch.Tensor] = []
    before_head: list[str] = []
    head_ran: list[bool] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim != 4 or output.shape[2] * output.shape[3] == 1:
                return
            grids[name] = (output.shape[1], output.shape[2], output.shape[3])
            if "Pool" in type(module).__name__ or isinstance(module, nn.Dropout):
                pooled.append(output)
            elif not head_ran and not any(output is p for p in pooled):
                before_head.append(name)

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n]
    handles.append(head.register_forward_pre_hook(lambda module, inputs: head_ran.append(True)))
    parameter = next(model.parameters())
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return grids, before_head[-1] if before_head else None


def find_target_layers(
    model: nn.Module, image_size: int, names: list[str] | None = None, stages: bool = False
) -> list[TargetLayer]:
    """The layers to explain: those named, or the one found.

    Args:
        stages: find the last layer of each of the last three grid sizes instead.

    Raises:
        UserError: a name that is no layer with a grid (all such layers are listed).
    """
    if not names and isinstance(model, torchvision.models.VisionTransformer):
        block = list(model.encoder.layers.named_children())[-1][0]
        name = f"encoder.layers.{block}.ln_1"
        return [TargetLayer(name, model.get_submodule(name), _tokens_to_grid)]
    grids, target = grid_layers(model, image_size)
    if not names and target is None:
        raise UserError("no layer of this network puts out a grid to explain")
    chosen = names or [str(target)]
    if stages and not names:
        until = list(grids)[: list(grids).index(str(target)) + 1]
        last = {grids[name][1:]: name for name in until}
        chosen = list(last.values())[-3:]
    for name in chosen:
        if name not in grids:
            raise UserError(f"no layer {name!r} with a grid; there are: {', '.join(grids)}")
    return [TargetLayer(name, model.get_submodule(name)) for name in chosen]


def _tokens_to_grid(tokens: torch.Tensor) -> torch.Tensor:
    """(N, 1 + side * side, C) tokens with the class token first -> (N, C, side, side)."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)


# -- running -----------------------------------------------------------------------------------------------------


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, channels last (1.6 times as fast on processors)."""
    return model.to(device).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Machine:
    """Where and how a network computes.

    Attributes:
        device: where.
        dtype: float32, or what autocast computes in.
        mean, std: normalisation of values in 0..1, one for each colour.
    """

    device: torch.device
    dtype: torch.dtype
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def autocast(self) -> AbstractContextManager[object]:
        """The context to run networks in."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def input(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) uint8 -> normalised float32 on the device, channels last."""
        scaled = pixels.to(self.device).float() / 255
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)


def default_image_size(arch: str) -> int:
    """Side of the pictures that the architecture's ImageNet weights were made for."""
    check_arch(arch)
    return int(imagenet_weights(arch).transforms().crop_size[0])
