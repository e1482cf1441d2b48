"""Pretrained weights: downloads, caches, files."""

from __future__ import annotations

import io
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.error import URLError

import torch
from torch import nn

from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.models.checks import check_finite
from crackcam.models.heads import head_name, replace_head
from crackcam.models.multiscale import Multiscale
from crackcam.models.registry import TIMM, _timm, bare_network, weights_entry

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT = 10  # seconds without a byte after which a download is given up


class WeightsUnavailableError(Exception):
    """Weights could not be had; the message says why, and where they are looked for."""


def build_classifier(arch: str, classes: int, imagenet: bool = False) -> nn.Module:
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
    replace_head(model, classes)
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
        return build_classifier(arch, classes), "random weights: asked for"
    if pretrained in ("auto", "imagenet"):
        try:
            return build_classifier(arch, classes, imagenet=True), "ImageNet weights of torchvision"
        except WeightsUnavailableError as reason:
            if pretrained == "imagenet":
                raise UserError(f"no ImageNet weights for {arch}: {reason}") from None
            logger.warning(f"no ImageNet weights for {arch} ({reason}); training longer, from random ones")
            return build_classifier(arch, classes), f"random weights: ImageNet's could not be had ({reason})"
    model = build_classifier(arch, classes)
    load_backbone(model, Path(pretrained))
    return model, f"weights of {pretrained}"


def load_maps(model: Multiscale, path: Path) -> bool:
    """The head of a checkpoint, where it is one like this; returns whether it is."""
    from crackcam.models.checkpoint import read_tensors

    own = model.state_dict()
    head = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith("backbone.")}
    alike = "scale" in head and all(name in own and own[name].shape == head[name].shape for name in head)
    if alike:
        model.load_state_dict(head, strict=False)
        check_finite(model, str(path))
    return alike


def imagenet_network(arch: str) -> nn.Module:
    """A classifier of ImageNet's classes as torchvision or timm has it; raises as :func:`build`."""
    model = bare_network(arch)
    missing, _ = model.load_state_dict(imagenet_state(arch), strict=False)  # surplus: auxiliary heads
    if missing:
        raise WeightsUnavailableError(f"the file lacks {missing[0]} and {len(missing) - 1} more tensors")
    return model


def imagenet_state(arch: str) -> dict[str, torch.Tensor]:
    """ImageNet weights, from torch's cache or downloaded; raises WeightsUnavailableError within seconds."""
    if not arch.startswith(TIMM):
        return download_weights(weights_entry(arch))
    with _fetching("timm looks for them on its hub and in that hub's cache"):
        return dict(_timm().create_model(arch.removeprefix(TIMM), pretrained=True).state_dict())


def download_weights(weights: Any) -> dict[str, torch.Tensor]:
    """A state dict of torchvision, from torch's cache or downloaded; raises WeightsUnavailableError within seconds."""
    name, folder = weights.url.rsplit("/", 1)[-1], Path(torch.hub.get_dir(), "checkpoints")
    with _fetching(f"torchvision looks for {name} in {folder}"):
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))


@contextmanager
def _fetching(where: str) -> Iterator[None]:
    try:
        # torch says on stdout, where our results go, that it downloads
        if not RuntimeConfig().may_download:
            with _no_network(), redirect_stdout(io.StringIO()):
                yield
        else:
            with _socket_timeout(NETWORK_TIMEOUT), redirect_stdout(sys.stderr):
                yield
    except Exception as error:  # network, proxy, disk, wrong hash, damaged cache: the reason is what matters
        reason = error.reason if type(error) is URLError else error
        said = " ".join(str(reason).split()) or type(reason).__name__
        if not RuntimeConfig().may_download and isinstance(error, OSError):
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
    from crackcam.models.checkpoint import read_tensors

    head = head_name(model)
    state, own = read_tensors(path), model.state_dict()
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}  # of a multiscale head
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    wanted = {name for name in own if not name.startswith(f"{head}.")}
    unlike = [n for n in wanted if n not in backbone or backbone[n].shape != own[n].shape]
    if unlike:
        raise UserError(f"{path} holds another architecture: {min(unlike)} is missing or of another shape")
    model.load_state_dict({n: backbone[n] for n in wanted}, strict=False)
    check_finite(model, str(path))
