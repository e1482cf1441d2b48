"""Networks: classifiers of torchvision and timm, with ImageNet weights where they can be had, and our own heads.

Nothing is known about single architectures. The head is the last layer with 1000 outputs; the CAM target layer is
found by watching one run: the last place where the network still has a grid, before anything pools it. A grid may be
(N, C, H, W), (N, H, W, C) as in Swin, or a row of tokens as in ViT; pictures are square, which tells them apart.
"""

from __future__ import annotations

import copy
import difflib
import io
import math
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, cast
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from crackcam.console import UserError, counted, first_line, note, offline
from crackcam.multiscale import COARSEST, FINEST, Multiscale
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform

TIMM = "timm/"  # what the names of timm's architectures start with
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
MORE = 64  # pixels that a picture grows by to see which grids grow, and how much: a multiple of every stride
NETWORK_TIMEOUT = 10  # seconds without a byte after which a download is given up
# Auxiliary classifiers have heads of their own and serve training from scratch on ImageNet only.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
EXTRA_ARGUMENTS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


class Grid(NamedTuple):
    """What a layer puts out, once ``reshape`` has brought it to (N, C, H, W); None where it is so already."""

    channels: int
    height: int
    width: int
    reshape: Callable[[torch.Tensor], torch.Tensor] | None = None


class TargetLayer(NamedTuple):
    """A layer to explain: its name as in ``model.named_modules()``, the module, and the grid that it puts out."""

    name: str
    module: nn.Module
    grid: Grid

    @property
    def reshape(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Brings its output to (N, C, H, W) where it is not."""
        return self.grid.reshape


class Recipe(NamedTuple):
    """What the ImageNet weights of an architecture expect of pictures, and what they know.

    Attributes:
        source: the weights' name.
        classes: names in index order.
        size: side of the square input.
        resize: what the shorter side of a picture is brought to before the square is cropped.
        interpolation: a filter of Pillow, by name.
        mean, std: of the normalisation, for values in 0..1.
    """

    source: str
    classes: list[str]
    size: int
    resize: int
    interpolation: str
    mean: list[float]
    std: list[float]


class WeightsUnavailableError(Exception):
    """Weights could not be had; the message says why, and where they are looked for."""


# -- building ----------------------------------------------------------------------------------------------


def check_arch(arch: str) -> None:
    """Raises UserError, with close names, where there is no such classifier."""
    if arch.startswith(TIMM):
        known, place = _timm().list_models(), "timm"
        name = arch.removeprefix(TIMM)
        there = _timm().is_model(name) and ("." not in name or name in _timm().list_pretrained())
    else:
        known, place = torchvision.models.list_models(module=torchvision.models), "torchvision"
        there = arch in known
    if not there:
        if arch in torchvision.models.list_models(module=torchvision.models.detection):
            raise UserError(f"{arch} is a detector, which can be used and explained as it is, but not trained here")
        close = difflib.get_close_matches(arch.removeprefix(TIMM), known, n=5, cutoff=0.4) or known[:20]
        raise UserError(f"no architecture {arch!r} in {place}; close to it: {', '.join(close)}")


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("architectures named timm/... need the package timm: pip install timm") from None
    return timm


def build(arch: str, classes: int, imagenet: bool = False) -> nn.Module:
    """A classifier with a fresh linear head.

    Args:
        arch: name in ``torchvision.models``.
        classes: outputs of the head.
        imagenet: load ImageNet weights into everything but the head, by download or from torch's cache.

    Raises:
        UserError: unknown architecture.
        WeightsUnavailableError: the weights cannot be had.
    """
    model = imagenet_network(arch) if imagenet else bare_network(arch)
    _replace_head(model, classes)
    return model


def from_weights(arch: str, pretrained: str, classes: int) -> tuple[nn.Module, str]:
    """A classifier with a fresh linear head, and where its weights come from; that starts with 'random' where they are.

    Args:
        pretrained: ``none``; ``imagenet``; ``auto``: ImageNet weights, random ones where they cannot be had, which is
            said; or a file, see :func:`load_backbone`.

    Raises:
        UserError: unknown architecture; or the weights cannot be had.
    """
    if pretrained == "none":
        return build(arch, classes), "random weights: asked for"
    if pretrained in ("auto", "imagenet"):
        try:
            return build(arch, classes, imagenet=True), "ImageNet weights of torchvision"
        except WeightsUnavailableError as reason:
            if pretrained == "imagenet":
                raise UserError(f"no ImageNet weights for {arch}: {reason}") from None
            note(f"warning: no ImageNet weights for {arch} ({reason}); training longer, from random ones")
            return build(arch, classes), f"random weights: ImageNet's could not be had ({reason})"
    model = build(arch, classes)
    load_backbone(model, Path(pretrained))
    return model, f"weights of {pretrained}"


def multiscale(model: nn.Module, classes: int, image_size: int) -> Multiscale:
    """The network with a fresh head that sums maps of its stages, in the place of its own.

    Raises:
        UserError: its layers put out no grids of different sizes, channels first.
    """
    grids, target = grid_layers(model, image_size)
    until = list(grids)[: list(grids).index(target) + 1] if target and grids[target].reshape is None else []
    last = {
        grids[name].height: name
        for name in until
        if grids[name].reshape is None and FINEST <= round(image_size / grids[name].height) <= COARSEST
    }
    if len(last) < 2:
        raise UserError("--head multiscale needs a network whose layers put out grids of several sizes")
    return with_maps(model, {name: grids[name].channels for name in last.values()}, classes)


def load_maps(model: Multiscale, path: Path) -> bool:
    """The head of a checkpoint, where it is one like this; returns whether it is."""
    from crackcam.checkpoint import read_tensors

    own = model.state_dict()
    head = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith("backbone.")}
    alike = "scale" in head and all(name in own and own[name].shape == head[name].shape for name in head)
    if alike:
        model.load_state_dict(head, strict=False)
        check_numbers(model, str(path))
    return alike


def with_maps(model: nn.Module, stages: dict[str, int], classes: int) -> Multiscale:
    """As :func:`multiscale`, with the layers named and their channels; raises AttributeError where there is none."""
    parent, _, child = head_name(model).rpartition(".")
    model.get_submodule(parent).register_module(child, nn.Identity())
    return Multiscale(model, stages, classes)


def imagenet_network(arch: str) -> nn.Module:
    """A classifier of ImageNet's classes as torchvision or timm has it; raises as :func:`build`."""
    model = bare_network(arch)
    missing, _ = model.load_state_dict(imagenet_state(arch), strict=False)  # surplus: auxiliary heads
    if missing:
        raise WeightsUnavailableError(f"the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    return model


def bare_network(arch: str) -> nn.Module:
    """A classifier of ImageNet's classes with random weights; raises UserError where there is none of that name."""
    check_arch(arch)
    if arch.startswith(TIMM):
        return _timm().create_model(arch.removeprefix(TIMM))
    return torchvision.models.get_model(arch, weights=None, **EXTRA_ARGUMENTS.get(arch, {}))


def weights_entry(arch: str) -> Any:
    """The entry of torchvision's weights that stands for the architecture: categories, transforms, address."""
    return torchvision.models.get_model_weights(arch).DEFAULT


def recipe(arch: str) -> Recipe:
    """What the architecture's ImageNet weights expect and know; raises UserError where there is no such classifier."""
    check_arch(arch)
    if not arch.startswith(TIMM):
        weights = weights_entry(arch)
        does = weights.transforms()
        return Recipe(
            f"{weights} of torchvision", list(weights.meta["categories"]), does.crop_size[0], does.resize_size[0],
            does.interpolation.value, list(does.mean), list(does.std),
        )  # fmt: skip
    name = arch.removeprefix(TIMM)
    config = _timm().get_pretrained_cfg(name)
    classes = weights_entry("resnet18").meta["categories"]
    if config.num_classes != IMAGENET_CLASSES:
        classes = [f"class {index}" for index in range(config.num_classes)]
    size = config.input_size[-1]
    return Recipe(
        f"{name}{f'.{config.tag}' if config.tag and '.' not in name else ''} of timm", list(classes), size,
        math.floor(size / config.crop_pct), config.interpolation, list(config.mean), list(config.std),
    )  # fmt: skip


def imagenet_state(arch: str) -> dict[str, torch.Tensor]:
    """ImageNet weights, from torch's cache or downloaded; raises WeightsUnavailableError within seconds."""
    if not arch.startswith(TIMM):
        return downloaded(weights_entry(arch))
    with _fetching("timm looks for them on its hub and in that hub's cache"):
        return dict(_timm().create_model(arch.removeprefix(TIMM), pretrained=True).state_dict())


def downloaded(weights: Any) -> dict[str, torch.Tensor]:
    """A state dict of torchvision, from torch's cache or downloaded; raises WeightsUnavailableError within seconds."""
    name, folder = weights.url.rsplit("/", 1)[-1], Path(torch.hub.get_dir(), "checkpoints")
    with _fetching(f"torchvision looks for {name} in {folder}"):
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))


@contextmanager
def _fetching(where: str) -> Iterator[None]:
    try:
        # torch says on stdout, where our results go, that it downloads
        if offline():
            with _no_network(), redirect_stdout(io.StringIO()):
                yield
        else:
            with _socket_timeout(NETWORK_TIMEOUT), redirect_stdout(sys.stderr):
                yield
    except Exception as error:  # network, proxy, disk, wrong hash, damaged cache: the reason is what matters
        reason = error.reason if type(error) is URLError else error
        said = " ".join(str(reason).split()) or type(reason).__name__
        if offline() and isinstance(error, OSError):
            said = "not at hand, and --offline fetches nothing"
        raise WeightsUnavailableError(f"{said} ({where})") from None


@contextmanager
def _no_network() -> Iterator[None]:
    """What lies in a cache can be had, whichever library's it is; no name of a machine is looked up."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError("offline")

    before = socket.getaddrinfo
    hub: Any = sys.modules.get("huggingface_hub.constants", SimpleNamespace(HF_HUB_OFFLINE=False))
    hub_before = hub.HF_HUB_OFFLINE
    socket.getaddrinfo, hub.HF_HUB_OFFLINE = refused, True  # the hub's client would try again for a minute
    try:
        yield
    finally:
        socket.getaddrinfo, hub.HF_HUB_OFFLINE = before, hub_before


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
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}  # of a multiscale head
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    wanted = {name for name in own if not name.startswith(f"{head}.")}
    unlike = [n for n in wanted if n not in backbone or backbone[n].shape != own[n].shape]
    if unlike:
        raise UserError(f"{path} holds another architecture: {min(unlike)} is missing or of another shape")
    model.load_state_dict({n: backbone[n] for n in wanted}, strict=False)
    check_numbers(model, str(path))


def check_numbers(model: nn.Module, whose: str) -> None:
    """Raises UserError where weights are NaN or infinite: whatever such a network says means nothing."""
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"{whose} holds numbers that are none (NaN or infinite) in {name}: make or fetch it again")


def check_runs(model: nn.Module, classes: int, image_size: int, whose: str) -> None:
    """Raises UserError where a network does not turn a picture of noise into a finite logit for each class."""
    parameter = next(model.parameters(), torch.empty(0))
    noise = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            logits = model(noise.to(parameter))
            good = logits.shape == (1, classes) and bool(logits.isfinite().all())
    except UserError:
        raise
    except Exception as error:  # stages that are none, sizes that it does not take: whatever its layers raise
        raise UserError(f"{whose} does not run on pictures of {image_size} px ({first_line(error)})") from None
    if not good:
        raise UserError(
            f"{whose} does not put out a finite number for each of its {counted(classes, 'class', 'classes')}"
        )


# -- head ----------------------------------------------------------------------------------------------------


def _replace_head(model: nn.Module, classes: int) -> None:
    if hasattr(model, "reset_classifier"):  # timm
        cast(Any, model).reset_classifier(classes)
        return
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
    """Name of the last layer, which makes the logits; of a multiscale head, of the first that it consists of."""
    if isinstance(model, Multiscale):
        return "maps.0"
    classifier = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None  # timm
    return next((name for name, module in model.named_modules() if module is classifier), "") or _last_layer(model)


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


def cool(model: nn.Module, temperature: float) -> None:
    """Divides the logits by a temperature, within the head: its weights and biases. Maps of logits scale alike."""
    multiscale_head = [model.scale, model.bias] if isinstance(model, Multiscale) else None
    with torch.no_grad():
        for parameter in multiscale_head or model.get_submodule(head_name(model)).parameters():
            parameter.div_(temperature)


# -- target layer ----------------------------------------------------------------------------------------------


def grid_layers(model: nn.Module, image_size: int) -> tuple[dict[str, Grid], str | None]:
    """Layers that a CAM can explain: those that put out a grid.

    Returns:
        The grid of each layer by name, in the order of a run; and the name of the default target: the last grid before
        pooling and head, under the outermost name that it goes by. None where the network has none.
    """
    grids: dict[str, Grid] = {}
    pooled: list[torch.Tensor] = []
    before_head: dict[str, torch.Tensor] = {}
    features: list[torch.Tensor] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            grid = grid_of(output)
            if grid is None or not isinstance(output, torch.Tensor):
                return
            grids[name] = grid
            if "Pool" in type(module).__name__ or isinstance(module, nn.Dropout | nn.Softmax):
                pooled.append(output)
            elif not features and not any(output is p for p in pooled):
                before_head[name] = output

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n]
    head = model.get_submodule(head_name(model))
    handles.append(head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])))
    parameter = next(model.parameters())
    was_training = model.training
    picture = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            model(picture.requires_grad_())
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"this network takes no pictures of {image_size} px: {first_line(error)}") from None
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    target = next(reversed(before_head), None)
    if target is not None and grids[target].reshape is vit_reshape_transform:
        target = _last_tokens(model, before_head, features[-1])
    return grids, target


def _last_tokens(model: nn.Module, outputs: dict[str, torch.Tensor], features: torch.Tensor) -> str | None:
    """The last normalised tokens that the head still learns about; after that, a class token stands for all others."""
    draw = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    gradients = torch.autograd.grad((features * draw).sum(), list(outputs.values()), allow_unused=True)
    felt = [
        name
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and gradient.ndim == 3 and vit_reshape_transform(gradient).any()
    ]
    normalised = [name for name in felt if "Norm" in type(model.get_submodule(name)).__name__]
    return next(reversed(normalised or felt), None)


def grid_of(output: object) -> Grid | None:
    """The grid that a layer puts out for square pictures; None where it is none, or a single place."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
        return Grid(*output.shape[1:])
    if output.ndim == 4 and output.shape[1] == output.shape[2] > 1:
        return Grid(output.shape[3], output.shape[1], output.shape[2], swinT_reshape_transform)
    if output.ndim == 3:
        try:
            channels, height, width = vit_reshape_transform(output).shape[1:]
        except ValueError:
            return None
        return Grid(channels, height, width, vit_reshape_transform) if height > 1 else None
    return None


def find_target_layers(
    model: nn.Module, image_size: int, names: list[str] | None = None, stages: bool = False,
    finer: nn.Module | None = None,
) -> list[TargetLayer]:  # fmt: skip
    """The layers to explain: those named, or the one found.

    Args:
        stages: find the last layer of each of the last three grid sizes instead.
        finer: from :func:`dilate`, to take the layers of these names from.

    Raises:
        UserError: a name that is no layer with a grid (all such layers are listed); or layers of different layouts.
    """
    grids, target = grid_layers(model, image_size)
    if not names and target is None:
        raise UserError("no layer of this network puts out a grid to explain")
    if stages and isinstance(model, Multiscale):
        names = names or list(model.stages)
    chosen = names or [str(target)]
    if stages and not names:
        until = list(grids)[: list(grids).index(str(target)) + 1]
        last = {grids[name].height: name for name in until if grids[name].reshape is grids[str(target)].reshape}
        chosen = list(last.values())[-3:]
    inside = [f"backbone.{name}" if f"backbone.{name}" in grids else name for name in chosen]
    chosen = inside if isinstance(model, Multiscale) else chosen
    for name in chosen:
        if name not in grids:
            raise UserError(f"no layer {name!r} with a grid; there are: {', '.join(grids)}")
    if len({grids[name].reshape for name in chosen}) > 1:
        raise UserError(f"{' and '.join(chosen)} hold their channels in different places: explain one at a time")
    return [TargetLayer(name, (finer or model).get_submodule(name), grids[name]) for name in chosen]


# -- finer grids -------------------------------------------------------------------------------------------------


class _CannotDilateError(Exception):
    """The message says what stands in the way."""


def can_dilate(model: nn.Module, stride: int, image_size: int) -> bool:
    """Whether :func:`dilate` can."""
    try:
        dilate(model, stride, image_size)
    except UserError:
        return False
    return True


def dilate(model: nn.Module, stride: int, image_size: int) -> nn.Module:
    """The same weights on a finer grid: layers no longer stride, and those behind them reach as far by dilation.

    Every k-th place of the new grid holds what the network puts out there as it is. Squeeze-and-excitation and its
    like, which pool the grid on the way, see more places, which changes that a little. Chen et al., DeepLab
    (arXiv:1606.00915); Yu et al., Dilated Residual Networks (arXiv:1705.09914).

    Args:
        model: left as it is.
        stride: pixels of the input for a cell of the last grid; a power of two.
        image_size: side of the pictures to try it with; others, a little larger, must do as well.

    Returns:
        A copy that shares the tensors.

    Raises:
        UserError: the network cannot be dilated so; the strides that it can have are listed.
    """
    grids, target = grid_layers(model, image_size)
    if target is None:
        raise UserError("no layer of this network puts out a grid to refine")
    if not takes_size(model, image_size + MORE):
        raise UserError(f"this network takes pictures of {image_size} px only, so that its output stride is fixed")
    own = MORE // (grid_layers(model, image_size + MORE)[0][target].height - grids[target].height)

    def dilated(wanted: int) -> nn.Module:
        if wanted > own:
            raise _CannotDilateError("dilation only makes it smaller")
        finer = _dilated_copy(model, wanted, image_size)
        grid = grid_layers(finer, image_size)[0].get(target) if takes_size(finer, image_size) else None
        if grid is None or math.ceil(grid.height * wanted / own) != grids[target].height:
            raise _CannotDilateError("its grid or its head rests on more than convolutions and pooling")
        return finer

    try:
        return dilated(stride)
    except _CannotDilateError as reason:
        possible = [own]
        for other in (16, 8, 4):
            if other < own and other != stride:
                with suppress(_CannotDilateError):
                    dilated(other)
                    possible.append(other)
        known = ", ".join(map(str, possible))
        raise UserError(f"this network cannot have output stride {stride}: {reason}; it can have {known}") from None


def _dilated_copy(model: nn.Module, wanted: int, image_size: int) -> nn.Module:
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    finer = copy.deepcopy(model, shared)
    met: dict[str, list[torch.Size]] = {}  # what each layer gets

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs: met.setdefault(name, []).append(inputs[0].shape)

    layers = {n: m for n, m in finer.named_modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    for size in (image_size, image_size + MORE):
        takes_size(finer, size)
    for handle in handles:
        handle.remove()
    for name, shapes in met.items():
        runs = len(shapes) // 2
        grown = {large[-1] - small[-1] for small, large in zip(shapes[:runs], shapes[runs:], strict=True)} - {0}
        at = MORE // min(grown, default=MORE)  # behind global pooling nothing grows, and nothing changes
        layer = _finer(layers[name], shapes[0][1], at, wanted)
        if layer is None:
            continue
        if len(grown) > 1 or not _agree(layers[name], layer, shapes[0][1], max(1, at // wanted)):
            raise _CannotDilateError(f"its layer {name}, {type(layers[name]).__name__}, cannot be dilated")
        parent, _, child = name.rpartition(".")
        finer.get_submodule(parent).register_module(child, layer.to(next(model.parameters())))
    return finer


def _finer(old: Any, channels: int, at: int, wanted: int) -> nn.Module | None:
    """A convolution or pooling at stride ``at``, for a grid of stride ``wanted`` at most; None: as it is."""
    reach = max(1, at // wanted)
    kernel, steps = _pair(old.kernel_size), _pair(old.stride)
    finer = _pair([min(step, max(1, wanted // at)) for step in steps])
    if finer == steps and (reach == 1 or kernel == (1, 1)):
        return None
    dilation = _pair([reach * gap for gap in _pair(getattr(old, "dilation", 1))])
    if isinstance(old, nn.Conv2d):
        new: Any = copy.copy(old)
        new.stride, new.dilation = finer, dilation
        new.padding = old.padding if isinstance(old.padding, str) else _pair([reach * pad for pad in old.padding])
        new._reversed_padding_repeated_twice = [reach * pad for pad in old._reversed_padding_repeated_twice]
        return new
    top, left = (reach * pad for pad in _pair(old.padding))
    if isinstance(old, nn.AvgPool2d):  # which knows no dilation: the same as a convolution
        new = nn.Conv2d(channels, channels, kernel, finer, (top, left), dilation, groups=channels, bias=False)
        new.weight = nn.Parameter(torch.full_like(new.weight, 1 / math.prod(kernel)), requires_grad=False)
        return new
    below, right = (  # ceil_mode lets the last window hang over
        reach * min(step - 1, size - 1 - pad) if old.ceil_mode else 0
        for step, size, pad in zip(steps, kernel, _pair(old.padding), strict=True)
    )
    return nn.Sequential(
        nn.ConstantPad2d((left, left + right, top, top + below), -math.inf),
        nn.MaxPool2d(kernel, finer, dilation=dilation),
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _agree(old: Any, new: Any, channels: int, reach: int) -> bool:
    """Whether a layer on a grid finer by ``reach`` does at every ``reach``-th place what the old one does."""
    if type(old) is nn.Conv2d:  # true by arithmetic, and slow to try
        return True
    side = reach * 2 * (max(_pair(old.kernel_size)) + 1)
    finer = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    finer = finer.to(next(old.parameters(), finer))
    steps = zip(_pair(old.stride), _pair((new[-1] if isinstance(new, nn.Sequential) else new).stride), strict=True)
    down, across = (reach * before // now for before, now in steps)
    with torch.inference_mode():
        expected, found = old(finer[..., ::reach, ::reach]), new(finer)[..., ::down, ::across]
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-2, atol=1e-2)


# -- running -----------------------------------------------------------------------------------------------------


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, channels last (1.6 times as fast on processors)."""
    return model.to(device).to(memory_format=torch.channels_last)


def takes_size(model: nn.Module, size: int) -> bool:
    """Whether the network runs on pictures of that size: networks with a position for each token do not."""
    parameter = next(model.parameters())
    was_training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        model.train(was_training)
    return True


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
        # bytes travel to the device; in place: batches are large, and each copy is a pass through memory
        scaled = pixels.to(self.device).contiguous(memory_format=torch.channels_last).float().div_(255)
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)

    def pixels(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`input`: the picture (N, 3, H, W) uint8 that comes closest."""
        mean, std = (torch.tensor(values, device=inputs.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
