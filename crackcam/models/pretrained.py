"""Build models from pretrained weights: downloads, caches, files. The only place that uses the network."""

from __future__ import annotations

import io
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn
from urllib.error import URLError

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.checks import check_finite
from crackcam.models.heads import head_name, replace_head
from crackcam.models.multiscale import Multiscale
from crackcam.models.registry import TIMM, create_imagenet_model, weights_entry
from crackcam.models.tensors import load_tensors, read_tensors

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT = 10  # seconds without a byte after which a download is given up


class WeightsUnavailableError(Exception):
    """Weights could not be obtained; the message says why, and where they are looked for."""


@dataclass(frozen=True)
class WeightsOrigin:
    """Where the weights come from that a training starts with.

    Attributes:
        kind: random initialisation, ImageNet weights, or a file.
        description: a sentence for people, stored in the checkpoint.
    """

    kind: Literal["random", "imagenet", "file"]
    description: str

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.kind == "random"

    @property
    def label(self) -> str:
        """A short form for figures: 'ImageNet weights'."""
        labels = {"random": "random weights", "imagenet": "ImageNet weights"}
        return labels.get(self.kind, self.description)


def build_classifier(arch: str, classes: int) -> nn.Module:
    """A classifier with random weights.

    Args:
        arch: name in ``torchvision.models``, or ``timm/`` and a name in timm.
        classes: outputs of its linear head.

    Raises:
        UserError: unknown architecture.
    """
    return _with_head(create_imagenet_model(arch), classes)


def imagenet_classifier(arch: str, classes: int, may_download: bool) -> nn.Module:
    """A classifier with ImageNet weights in all layers but its fresh head; raises as :func:`load_imagenet_weights`."""
    model = create_imagenet_model(arch)
    load_imagenet_weights(model, arch, may_download)
    return _with_head(model, classes)


def _with_head(model: nn.Module, classes: int) -> nn.Module:
    replace_head(model, classes)
    return model


def initial_weights(arch: str, pretrained: str, classes: int, may_download: bool) -> tuple[nn.Module, WeightsOrigin]:
    """A classifier with a fresh linear head to start a training with, and where its weights come from.

    Args:
        arch: name of the architecture.
        pretrained: ``none``; ``imagenet``; ``auto``: ImageNet weights, random ones where those are not available, which
            is logged; or the path of a file, see :func:`load_backbone`.
        classes: outputs of the head.
        may_download: whether weights that are not cached may be downloaded.

    Raises:
        UserError: unknown architecture, or the weights are not available.
    """
    if pretrained == "none":
        return build_classifier(arch, classes), WeightsOrigin("random", "random weights: requested")
    if pretrained in ("auto", "imagenet"):
        try:
            model = imagenet_classifier(arch, classes, may_download)
            return model, WeightsOrigin("imagenet", f"ImageNet weights of {_library(arch)}")
        except WeightsUnavailableError as reason:
            if pretrained == "imagenet":
                raise UserError(f"no ImageNet weights for {arch}: {reason}") from None
            logger.warning(
                f"no ImageNet weights for {arch} ({reason}): falling back to random initialisation, which trains longer"
            )
            description = f"random weights: ImageNet weights are not available ({reason})"
            return build_classifier(arch, classes), WeightsOrigin("random", description)
    model = build_classifier(arch, classes)
    load_backbone(model, Path(pretrained))
    return model, WeightsOrigin("file", f"weights of {pretrained}")


def _library(arch: str) -> str:
    return "timm" if arch.startswith(TIMM) else "torchvision"


def load_backbone(model: nn.Module, path: Path) -> None:
    """Load all weights of a file but its head's into a model of the same architecture.

    Args:
        model: changed in place.
        path: a checkpoint, or a state dict saved with ``torch.save``.

    Raises:
        UserError: no such file, damaged, or of another architecture.
    """
    head = head_name(model)
    state, own = read_tensors(path), model.state_dict()
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}  # of a multiscale head
    backbone = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    needed = {name for name in own if not name.startswith(f"{head}.")}
    unlike = [n for n in needed if n not in backbone or backbone[n].shape != own[n].shape]
    if unlike:
        raise UserError(f"{path} has another architecture: {min(unlike)} is missing or of another shape")
    load_tensors(model, {n: backbone[n] for n in needed}, strict=False)
    check_finite(model, str(path))


def load_maps(model: Multiscale, path: Path) -> bool:
    """Load the multiscale head of a checkpoint, in place; returns whether the checkpoint has one of these shapes."""
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    head = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith("backbone.")}
    # All of it: a decoder that the file lacks would stay random, and be trained as if it were not.
    fits = own.keys() == head.keys() and all(own[name].shape == head[name].shape for name in head)
    if fits:
        load_tensors(model, head, strict=False)
        check_finite(model, str(path))
    return fits


def load_imagenet_weights(model: nn.Module, arch: str, may_download: bool) -> None:
    """Load the ImageNet weights of torchvision or timm.

    Args:
        model: see :func:`create_imagenet_model`; changed in place.
        arch: name of its architecture.
        may_download: whether weights that are not cached may be downloaded.

    Raises:
        WeightsUnavailableError: the weights are not available.
    """
    missing, _ = load_tensors(model, imagenet_state(arch, may_download), strict=False)  # surplus: auxiliary heads
    if missing:
        raise WeightsUnavailableError(f"the file lacks {missing[0]} and {len(missing) - 1} more tensors")


def imagenet_state(arch: str, may_download: bool) -> dict[str, torch.Tensor]:
    """ImageNet weights, cached or downloaded; raises WeightsUnavailableError within seconds."""
    if not arch.startswith(TIMM):
        return download_weights(weights_entry(arch), may_download)
    import timm

    with _fetching("timm looks for them on its hub and in that hub's cache", may_download):
        return dict(timm.create_model(arch.removeprefix(TIMM), pretrained=True).state_dict())


def download_weights(weights: Any, may_download: bool) -> dict[str, torch.Tensor]:
    """The state dict of an entry of torchvision's weights, from torch's cache or downloaded.

    Raises:
        WeightsUnavailableError: within seconds.
    """
    name, folder = weights.url.rsplit("/", 1)[-1], Path(torch.hub.get_dir(), "checkpoints")
    with _fetching(f"torchvision looks for {name} in {folder}", may_download):
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))


@contextmanager
def _fetching(where: str, may_download: bool) -> Iterator[None]:
    """Turn whatever fails within into WeightsUnavailableError; without permission to download, read caches only."""
    try:
        # torch reports downloads on stdout, which is for results
        if may_download:
            with _socket_timeout(NETWORK_TIMEOUT), redirect_stdout(sys.stderr):
                yield
        else:
            with _no_network(), redirect_stdout(io.StringIO()):
                yield
    except Exception as error:  # network, proxy, disk, wrong hash, damaged cache: only the reason matters
        reason = error.reason if type(error) is URLError else error
        message = " ".join(str(reason).split()) or type(reason).__name__
        if not may_download and isinstance(error, OSError):
            message = "not cached, and --offline forbids downloads"
        raise WeightsUnavailableError(f"{message} ({where})") from None


@contextmanager
def _no_network() -> Iterator[None]:
    """No host name is resolved, so that libraries use their caches only."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("offline")

    before = socket.getaddrinfo
    hub: Any = sys.modules.get("huggingface_hub.constants", SimpleNamespace(HF_HUB_OFFLINE=False))
    hub_before = hub.HF_HUB_OFFLINE
    socket.getaddrinfo, hub.HF_HUB_OFFLINE = refuse, True  # the hub's client would retry for a minute
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
