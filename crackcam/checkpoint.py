"""One file that carries all that inference and explanation need.

A ``.safetensors`` file: the network's tensors, and under the metadata key ``crackcam`` a JSON card with the
fields of :class:`Card` and a schema version. Reading it runs no code. A plain state dict saved with ``torch.save`` is
read too (``weights_only=True``), with the architecture and the classes given by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from crackcam.console import UserError, versions, write_atomically
from crackcam.images import Geometry
from crackcam.model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    WeightsUnavailableError,
    bare_network,
    build,
    imagenet_network,
    place,
    recipe,
    with_maps,
)

KEY, SCHEMA = "crackcam", 1


@dataclass
class Card:
    """What is known about a network beside its tensors.

    Attributes:
        arch: name in ``torchvision.models``, or ``timm/`` and a name in timm.
        classes: names in index order.
        image_size: side of the input; whole pictures are squashed to it, unless one of the next three says otherwise.
        resize, interpolation, max_scale: see :class:`crackcam.images.Geometry`.
        mean, std: of the normalisation, for values in 0..1.
        head: kind of head, "linear" or "multiscale".
        stages: of a multiscale head, the layers that it reads, and their channels.
        output_stride: pixels of the input for one cell of the target layer's grid.
        pretrained: where the weights started from, and why.
        training: the arguments of the training run.
        split: for each split that was held out by us, its files relative to the data folder.
        metrics: of the test split (else of the validation split), and of the best epoch; the temperature that the head
            has taken in, and how many pictures of each other split are near-duplicates of training pictures.
        versions: of the libraries that trained it.
        thresholds: by method and class, above what heat something was found, in the raw unit of the method's maps; see
            :mod:`crackcam.finding`.
    """

    arch: str
    classes: list[str]
    image_size: int
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    head: str = "linear"
    output_stride: int | None = None
    pretrained: str = ""
    training: dict = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    resize: int | None = None
    interpolation: str = "bilinear"
    max_scale: float | None = None
    stages: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """How a picture becomes the network's input."""
        return Geometry(self.image_size, self.resize, self.interpolation, self.max_scale)


def save(path: Path, model: nn.Module, card: Card, half: bool = False) -> None:
    """Write network and card, atomically; weights in half precision where asked."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    document = json.dumps({"schema": SCHEMA, **dataclasses.asdict(card)})
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={KEY: document}))


def load(
    path: Path, device: torch.device, arch: str | None = None, classes: list[str] | None = None
) -> tuple[nn.Module, Card]:
    """Read network and card.

    Args:
        path: a checkpoint of ours; or a plain state dict, for which ``arch`` and ``classes`` are needed.
        device: where the network goes, in eval mode and channels last.

    Raises:
        UserError: no such file, truncated, of another version, or not fitting the architecture.
    """
    if not path.exists():
        raise UserError(f"no checkpoint at {path}: run python train.py first, or name one with --weights")
    tensors = read_tensors(path)
    card = _read_card(path)
    if card is None:
        if not arch or not classes:
            raise UserError(f"{path} is a plain state dict: say what it is with --arch and --classes")
        card = Card(arch, classes, recipe(arch).size, pretrained=f"plain state dict {path.name}")
    elif arch or classes:
        raise UserError(f"{path} says itself what it is: leave --arch and --classes out")
    model = build(card.arch, len(card.classes))
    if card.head == "multiscale":
        try:
            model = with_maps(model, card.stages, len(card.classes))
        except AttributeError as error:
            raise UserError(f"the card in {path} is damaged ({error})") from None
    fill(model, tensors, f"{path} does not fit {card.arch} with {len(card.classes)} classes")
    return place(model.eval(), device), card


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], complaint: str) -> None:
    """Put tensors into a network; raises UserError, the complaint and the first tensor that does not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).split("\n")[1:2] or [str(error)]
        raise UserError(f"{complaint}: {detail[0].strip()[:200]}") from None


def load_imagenet(arch: str, device: torch.device, random: bool = False) -> tuple[nn.Module, Card]:
    """An ImageNet network as it is, with its own classes and the preprocessing of its weights.

    Args:
        random: random weights instead, to try things out.

    Raises:
        UserError: unknown architecture, or its weights cannot be had.
    """
    try:
        model = bare_network(arch) if random else imagenet_network(arch)
    except WeightsUnavailableError as reason:
        raise UserError(f"no ImageNet weights for {arch}: {reason}") from None
    source, classes, size, resize, interpolation, mean, std = recipe(arch)
    source = "random weights: asked for" if random else source
    card = Card(arch, classes, size, mean, std, pretrained=source, resize=resize, interpolation=interpolation)
    return place(model.eval(), device), card


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file or of a state dict saved with torch.save; runs no code of the file."""
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{path} is truncated or no safetensors file ({error})") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(f"{path} is damaged, or holds more than tensors; save model.state_dict()") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict; save model.state_dict()")
    # Left by torch.compile and DataParallel.
    return {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in state.items()}


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_card(path: Path) -> Card | None:
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
    return None if text is None else card_of(text, path)


def card_of(text: str, path: Path) -> Card:
    """The card that JSON describes; raises UserError, with the file's name, where it is damaged or too new."""
    try:
        document = json.loads(text)
        schema = document.pop("schema")
        if schema != SCHEMA:
            raise UserError(
                f"{path} is of schema {schema}, this version reads {SCHEMA}: train again, or update crackcam"
            )
        card = Card(**document)
        names_are_text = all(isinstance(name, str) for name in [card.arch, *card.classes])
        if not names_are_text or not isinstance(card.image_size, int) or len(set(card.classes)) != len(card.classes):
            raise TypeError("wrong kind of value")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the card in {path} is damaged ({error})") from None
    return card
