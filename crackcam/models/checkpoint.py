"""One file that carries all that inference and explanation need.

A ``.safetensors`` file: the network's tensors, and under the metadata key ``crackcam`` a JSON card with the
fields of :class:`Card` and a schema version. Reading it runs no code. A plain state dict saved with ``torch.save`` is
read too (``weights_only=True``), with the architecture and the classes given by hand.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from crackcam.config import LARGEST_SIZE
from crackcam.data.splits import SPLITS, check_classes
from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.models.checks import check_finite, check_runs, place
from crackcam.models.pretrained import WeightsUnavailableError, build_classifier, imagenet_network
from crackcam.models.registry import bare_network, pretrained_config
from crackcam.models.stages import with_maps
from crackcam.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Geometry
from crackcam.runtime import library_versions

KEY, SCHEMA = "crackcam", 1
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass
class ModelCard:
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
    versions: dict[str, str] = field(default_factory=library_versions)
    resize: int | None = None
    interpolation: str = "bilinear"
    max_scale: float | None = None
    stages: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """How a picture becomes the network's input."""
        return Geometry(self.image_size, self.resize, self.interpolation, self.max_scale)


def save(path: Path, model: nn.Module, card: ModelCard, half: bool = False) -> None:
    """Write network and card, atomically; weights in half precision where asked."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    document = json.dumps({"schema": SCHEMA, **dataclasses.asdict(card)})
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={KEY: document}))


def load(
    path: Path, device: torch.device, arch: str | None = None, classes: list[str] | None = None
) -> tuple[nn.Module, ModelCard]:
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
        wrong = check_classes(classes)
        if wrong:
            raise UserError(f"--classes: {wrong}")
        card = ModelCard(arch, classes, pretrained_config(arch).size, pretrained=f"plain state dict {path.name}")
    elif arch or classes:
        raise UserError(f"{path} says itself what it is: leave --arch and --classes out")
    complaint = f"{path} does not fit {card.arch} with {len(card.classes)} classes"
    # Shapes without memory first, so that a small file asks for no large network. RegNets cannot be had so.
    with suppress(NotImplementedError), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is copied
        _put(tensors, _network(card, path), complaint)
    # In full, random weights too: buffers that no file holds, the masks of timm's Swin say, are made along with them.
    model = _network(card, path)
    fill(model, tensors, complaint)
    model = place(model.eval(), device)
    check_runs(model, len(card.classes), card.image_size, str(path))
    return model, card


def _network(card: ModelCard, path: Path) -> nn.Module:
    """The network that a card describes, without its weights."""
    model = build_classifier(card.arch, len(card.classes))
    if card.head == "linear":
        return model
    try:
        return with_maps(model, card.stages, len(card.classes))
    except AttributeError as error:
        raise UserError(f"the card in {path} is damaged ({error})") from None


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], complaint: str) -> None:
    """Put tensors into a network.

    Raises:
        UserError: the complaint and the first tensor that does not fit; or one holds NaN or infinity.
    """
    _put(tensors, model, complaint)
    check_finite(model, complaint.split(" does not fit ")[0])


def _put(tensors: dict[str, torch.Tensor], model: nn.Module, complaint: str) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).split("\n")[1:2] or [str(error)]
        raise UserError(f"{complaint}: {detail[0].strip()[:200]}") from None
    for name, own in model.state_dict().items():
        if own.is_floating_point() != tensors[name].is_floating_point():
            raise UserError(f"{complaint}: {name} is of {tensors[name].dtype}, not {own.dtype}")


def load_imagenet(arch: str, device: torch.device, random: bool = False) -> tuple[nn.Module, ModelCard]:
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
    source, classes, size, resize, interpolation, mean, std = pretrained_config(arch)
    source = "random weights: asked for" if random else source
    card = ModelCard(arch, classes, size, mean, std, pretrained=source, resize=resize, interpolation=interpolation)
    return place(model.eval(), device), card


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file or of a state dict saved with torch.save; runs no code of the file."""
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _plain({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{path} is truncated or no safetensors file ({error})") from None
    state = read_pickle(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"{path} holds no state dict; save model.state_dict()")
    # Left by torch.compile and DataParallel.
    return _plain({n.removeprefix("_orig_mod.").removeprefix("module."): tensor for n, tensor in state.items()}, path)


def read_pickle(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain values alone; nothing of it is run.

    Raises:
        UserError: damaged, more than that, or packed so that it would unfold to more than the file's size.
    """
    try:
        if zipfile.is_zipfile(path):  # as torch.save writes them, unpacked
            with zipfile.ZipFile(path) as packed:
                if sum(member.file_size for member in packed.infolist()) > path.stat().st_size:
                    raise ValueError("packed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception:  # readers raise whatever a broken file makes them raise
        raise UserError(f"{path} is damaged, or holds more than tensors; save model.state_dict()") from None


def _plain(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors, if they are what weights are: numbers in memory, whole ones or of a usual precision."""
    for name, tensor in tensors.items():
        number = tensor.dtype in FLOATS or not (tensor.is_floating_point() or tensor.is_complex())
        if not number or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{path} is damaged: {name} is no tensor of weights ({tensor.dtype}, {tensor.layout})")
    return tensors


def _read_card(path: Path) -> ModelCard | None:
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
    return None if text is None else card_of(text, path)


def card_of(text: str, path: Path) -> ModelCard:
    """The card that JSON describes; raises UserError, with the file's name, where it is damaged or too new."""
    try:
        document = json.loads(text)
        schema = document.pop("schema")
        if schema != SCHEMA:
            raise UserError(
                f"{path} is of schema {schema}, this version reads {SCHEMA}: train again, or update crackcam"
            )
        card = ModelCard(**document)
        wrong = next((name for name, fits in FITS.items() if not fits(getattr(card, name))), None)
        if wrong:
            raise TypeError(f"its {wrong}")
        if card.head == "multiscale" and not card.stages:
            raise TypeError("no stages")
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"the card in {path} is damaged ({error})") from None
    return card


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, high: int) -> bool:
    return isinstance(value, int) and _is_number(value, 1, high)


def _is_list(value: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_dict(value: object, fits: Callable[[Any], bool]) -> bool:  # JSON's keys are text
    return isinstance(value, dict) and all(map(fits, value.values()))


def _is_inside(name: object) -> bool:
    """Whether a file's name stays below the folder that it is relative to."""
    return isinstance(name, str) and "\0" not in name and not {"..", "/"} & set(PurePosixPath(name).parts)


# What each field of a card may be: it may come from a stranger.
FITS: dict[str, Callable[[Any], bool]] = {
    "arch": _is_text,
    "classes": lambda names: _is_list(names, _is_text) and not check_classes(names),
    "image_size": lambda size: _is_whole(size, LARGEST_SIZE),
    "mean": lambda values: _is_list(values, lambda v: _is_number(v, -1e3, 1e3)) and len(values) == 3,
    "std": lambda values: _is_list(values, lambda v: _is_number(v, 1e-3, 1e3)) and len(values) == 3,
    "head": lambda head: head in ("linear", "multiscale"),
    "output_stride": lambda stride: stride is None or _is_whole(stride, LARGEST_SIZE),
    "pretrained": _is_text,
    "training": lambda arguments: isinstance(arguments, dict),
    "split": lambda split: _is_dict(split, lambda names: _is_list(names, _is_inside)) and split.keys() <= set(SPLITS),
    "metrics": lambda metrics: isinstance(metrics, dict),
    "versions": lambda versions: _is_dict(versions, _is_text),
    "resize": lambda size: size is None or _is_whole(size, 2 * LARGEST_SIZE),
    "interpolation": lambda name: _is_text(name) and name.upper() in Image.Resampling.__members__,
    "max_scale": lambda scale: scale is None or _is_number(scale, 0.01, 100),
    "stages": lambda stages: _is_dict(stages, lambda channels: _is_whole(channels, 10**6)),
    "thresholds": lambda methods: _is_dict(methods, lambda known: _is_dict(known, lambda v: _is_number(v, 0, 3e38))),
}
