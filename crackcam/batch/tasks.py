"""What is done with each image of a folder: predict it, or explain it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from crackcam.batch.orthomosaics import Survey, predict_orthomosaic
from crackcam.batch.streaming import Alone, Item, Row
from crackcam.config import ExplainConfig, SizesConfig
from crackcam.data.capture import Capture, read_capture
from crackcam.data.images import read_image
from crackcam.data.listing import MASK_IMAGES
from crackcam.data.scene import ImageError
from crackcam.data.verdicts import REJECT, FileVerdicts
from crackcam.data.windows import Windowed, read_or_leave
from crackcam.errors import UserError
from crackcam.evaluation.regions import CRACK_COLUMNS, Measurement
from crackcam.explain.explainer import Explainer
from crackcam.explain.explanation import Explanation
from crackcam.explain.thresholds import known_threshold
from crackcam.files import file_hash, write_atomically
from crackcam.methods import EVIDENCE
from crackcam.models.loaded import LoadedModel, stack
from crackcam.models.tiles import is_large, predict_images, reads_tiles, tile_count
from crackcam.render.overlays import SHOWN_SIDE, Style, choose_style, thumbnail
from crackcam.settings import flag_of
from crackcam.types import Prediction

SHARD = 1000  # images in a folder of overlays or heatmaps: file managers and network drives are slow with more
STEM = 50  # characters of an image's name in the names of its overlay and heatmap: file systems take 255 bytes
OVERLAY_SIDE = 1024  # pixels of the longer side; smaller images keep their size
QUALITY = 90  # of JPEG
DECIMALS = 6  # of probabilities


class Task(Protocol):
    """What is done with each image.

    Attributes:
        verb: for the progress bar.
        header: columns of the .csv.
        folders: where it writes files.
        settings: what rows depend on besides the files, by the names of flags; JSON.
    """

    @property
    def verb(self) -> str: ...
    @property
    def header(self) -> list[str]: ...
    @property
    def folders(self) -> Sequence[Path]: ...
    @property
    def settings(self) -> dict[str, Any]: ...

    def read(self, path: Path) -> np.ndarray | Windowed:
        """A file; runs in decoding threads."""

    def prepare(self, image: np.ndarray | Windowed) -> Any:
        """What :meth:`work` needs of it; runs in decoding threads. See :class:`.streaming.Alone`."""

    def work(self, items: list[Item]) -> list[Callable[[], Row]]:
        """For each image of a batch a function that makes its row, which runs in finishing threads."""

    def cells(self, row: Row) -> list:
        """The values below the header."""

    def line(self, row: Row) -> Row:
        """The line of a row in a .jsonl."""


@dataclass(frozen=True)
class PredictTask:
    """Probabilities of every image.

    Attributes:
        network: what predicts.
        top_k: classes in a row.
        batch_size: images of the network's size that may be computed at a time.
    """

    network: LoadedModel
    top_k: int | None = None
    batch_size: int = 32
    verb: str = "predicting"
    folders: Sequence[Path] = ()

    @property
    def header(self) -> list[str]:
        return ["file", "true", "predicted", *(f"p_{name}" for name in self.network.card.classes), "error"]

    @property
    def settings(self) -> dict[str, Any]:
        return model_settings(self.network)

    def read(self, path: Path) -> np.ndarray | Windowed:
        return read_or_leave(path) if reads_tiles(self.network) else read_image(path)

    def prepare(self, image: np.ndarray | Windowed) -> np.ndarray | Alone:
        if isinstance(image, Windowed):
            return Alone(image)
        large = is_large(self.network, *image.shape[:2])
        return Alone(image) if large else self.network.preprocessing.apply(image)

    def work(self, items: list[Item]) -> list[Callable[[], Row]]:
        if isinstance(items[0].prepared, Windowed):
            return [_with_errors(partial(self._windowed, items[0].path))]
        if is_large(self.network, *items[0].prepared.shape[:2]):
            found = predict_images(self.network, [item.prepared for item in items], self.batch_size)
            return [partial(self._row, *of_one) for of_one in zip(*found, strict=True)]
        pixels = stack([item.prepared for item in items])
        return [partial(self._row, row, 1) for row in self.network.probabilities(pixels)]

    def _windowed(self, path: Path) -> Row:
        prediction = predict_orthomosaic(self.network, path, self.batch_size)
        values = torch.tensor([prediction.probabilities[name] for name in self.network.card.classes])
        return self._row(values, prediction.tiles)

    def _row(self, row: torch.Tensor, tiles: int) -> Row:
        values = row.tolist()
        return {
            "predicted": self.network.card.classes[values.index(max(values))],
            "probabilities": [round(value, DECIMALS) for value in values],
            "tiles": tiles,
        }

    def cells(self, row: Row) -> list:
        values = row.get("probabilities")
        texts = [f"{value:.{DECIMALS}f}" for value in values] if values else [""] * len(self.network.card.classes)
        return [row["file"], row["true"], row.get("predicted"), *texts, row.get("error")]

    def line(self, row: Row) -> Row:
        if "probabilities" not in row:
            return row
        by_name = Prediction.of(self.network.card.classes, row["probabilities"]).top(self.top_k)
        return {**row, "probabilities": by_name}


@dataclass(frozen=True)
class ExplainTask:
    """An overlay of every image, in folders of :data:`SHARD`; the heatmap too where asked.

    Attributes:
        explainer: of one method.
        target: class to explain; None: the one predicted.
        overlays: folder of the overlays.
        save_maps: folder of the heatmaps.
        top_k: classes in a row.
        sizes: how the sizes of cracks become millimetres.
        verdicts: what a person decided about regions of these files; overlays do not show rejected ones.

    Raises:
        UserError: regions are asked for, and no threshold is known.
    """

    explainer: Explainer
    target: int | None
    overlays: Path
    save_maps: Path | None = None
    top_k: int | None = None
    sizes: SizesConfig = field(default_factory=SizesConfig)
    verdicts: FileVerdicts | None = None
    verb: str = "explaining"
    style: Style = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        object.__setattr__(self, "style", choose_style(config.style, config.colormap))
        classes, method = self.explainer.network.card.classes, self.explainer.method
        if self.measures:
            names = classes if self.target is None else [classes[self.target]]
            card = self.explainer.network.card
            if any(math.isnan(known_threshold(config, card, method, name)) for name in names):
                raise UserError(
                    f"no threshold is known for these heatmaps of {method}: --style mask --all needs --threshold"
                )

    @property
    def config(self) -> ExplainConfig:
        """How heatmaps are made."""
        return self.explainer.config

    @property
    def measures(self) -> bool:
        """Whether regions are measured."""
        return self.config.style == "mask"

    @property
    def header(self) -> list[str]:
        measures = ["threshold", "share", "length", "width", "boxes", *CRACK_COLUMNS] if self.measures else []
        columns = ["file", "true", "predicted", "probability", "target", "max", "overlay"]
        return [*columns, *(["map"] if self.save_maps else []), *measures, "error"]

    @property
    def folders(self) -> Sequence[Path]:
        maps = [self.save_maps] if self.save_maps else []
        return [self.overlays, *maps, *([self.mask_images] if self.measures else [])]

    @property
    def mask_images(self) -> Path:
        """Folder of the masks of regions."""
        return self.overlays.with_name(f"{self.overlays.name}{MASK_IMAGES}")

    @property
    def settings(self) -> dict[str, Any]:
        card = self.explainer.network.card
        config = self.config.as_dict() | self.sizes.as_dict()
        return {
            **model_settings(self.explainer.network),
            **{flag_of(name).removeprefix("--"): value for name, value in config.items()},
            "method": self.explainer.method,
            "scales": None if self.config.single_scale else list(self.config.scales),
            "target": "predicted" if self.target is None else card.classes[self.target],
            "top-k": self.top_k,
            "save-maps": self.save_maps and str(self.save_maps),
            "verdicts": self.verdicts and self.verdicts.digest,
        }

    @property
    def _needs_original(self) -> bool:
        """Whether the image is needed at its own size, not only at that of its overlay."""
        return bool(self.config.refine or self.save_maps or not self.config.single_scale or self.measures)

    def read(self, path: Path) -> np.ndarray | Windowed:
        plain = self.explainer.method == EVIDENCE and self.explainer.combination.plain and not self.config.refine
        by_windows = self.measures and plain and reads_tiles(self.explainer.network)
        return read_or_leave(path, needed=True) if by_windows else read_image(path)

    def prepare(self, image: np.ndarray | Windowed) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | Alone:
        if isinstance(image, Windowed):
            return Alone(image)
        whole = self.explainer.whole
        explained = whole.apply(image) if whole else None
        fitted = self.explainer.network.preprocessing.apply(image)
        if is_large(self.explainer.network, *image.shape[:2]):
            return Alone((fitted, image, explained))
        return fitted, image if self._needs_original else thumbnail(image, OVERLAY_SIDE), explained

    def work(self, items: list[Item]) -> list[Callable[[], Row]]:
        if isinstance(items[0].prepared, Windowed):
            return [_with_errors(partial(self._surveyed, items[0]))]
        pixels = stack([item.prepared[0] for item in items])
        images = [item.prepared[1] for item in items]
        explained = stack([item.prepared[2] for item in items]) if self.explainer.whole else None
        found = self.explainer.predict_and_explain(pixels, images, self.target, explained)
        return [partial(self._row, *of_one) for of_one in zip(items, *found, strict=True)]

    def _surveyed(self, item: Item) -> Row:
        """The row of an orthomosaic; what an interrupted run has computed of it is used."""
        batch_size = self.explainer.combination.batch_size
        made_by = model_settings(self.explainer.network)
        survey = Survey(self.explainer, self.target, self.sizes, batch_size, made_by, self.verdicts)
        folder, name = self.overlays / f"{item.place // SHARD:05d}", f"{item.place:07d}_{item.path.stem[:STEM]}"
        prediction, row = survey.work(item.path, folder / f"{name}.jpg", folder / f"{name}.part", resume=True)
        best = {label: round(value, DECIMALS) for label, value in prediction.top(self.top_k).items()}
        return {"predicted": prediction.label, "probabilities": best, "tiles": prediction.tiles, **row}

    def _row(self, item: Item, probabilities: torch.Tensor, target: int, heatmap: torch.Tensor) -> Row:
        network = self.explainer.network
        tiles = tile_count(network, *item.prepared[1].shape[:2])
        prediction = Prediction.of(network.card.classes, probabilities.tolist(), item.path, tiles=tiles)
        explanation = self.explainer.explanation(item.prepared[1], prediction, target, heatmap.cpu())
        best = prediction.top(self.top_k)
        return {
            "predicted": prediction.label,
            "probabilities": {name: round(value, DECIMALS) for name, value in best.items()},
            "target": explanation.target,
            "tiles": tiles,
            **self._written(item, explanation),
        }

    def _written(self, item: Item, explanation: Explanation) -> Row:
        """Write overlay, heatmap and mask; returns their names, and what was measured."""
        shard, name = f"{item.place // SHARD:05d}", f"{item.place:07d}_{item.path.stem[:STEM]}"
        overlay, measured, exif = self.overlays / shard / f"{name}.jpg", None, b""
        whole = explanation.heatmap if self.config.refine or self.save_maps or self.measures else None
        row: Row = {"overlay": str(overlay), "max": explanation.peak(whole)}
        if self.save_maps and whole is not None:
            path = self.save_maps / shard / f"{name}.npy"
            write_atomically(path, lambda temporary: np.save(temporary, whole))
            row["map"] = str(path)
        if self.measures and whole is not None:
            capture = read_capture(item.path)
            found, measured = self._measured(item.path, explanation, whole, capture)
            mask = self.mask_images / shard / f"{name}.png"
            _write_image(mask, measured.mask.astype(np.uint8) * 255)
            row |= {**found, "mask": str(mask)}
            exif = capture.exif
        # outlines are fine lines: small images are enlarged for them
        side = min(OVERLAY_SIDE, max(SHOWN_SIDE, *explanation.image.shape[:2]))
        _write_image(overlay, explanation.draw(self.style, side, measured), quality=QUALITY, exif=exif)
        return row

    def _measured(
        self, path: Path, explanation: Explanation, heatmap: np.ndarray, capture: Capture
    ) -> tuple[Row, Measurement]:
        """What a row tells of all regions; and those that are shown: neither rejected ones nor those of an absence."""
        scale = capture.scale(self.sizes)
        measured = explanation.measure(None, heatmap, scale, self.sizes.limits)
        row = {"threshold": explanation.finite_threshold, **measured.as_row()}
        row |= {"size": list(explanation.image.shape[1::-1])}
        row |= {"capture": capture.to_dict(), "mm_per_pixel": scale and scale.mm_per_pixel}
        shows = explanation.target in self.explainer.network.card.present
        hidden = set() if shows else {region.number for region in measured.regions}
        if self.verdicts:
            decided = self.verdicts.judge(path, measured.boxes)
            row["regions"] = [
                {**region, "verdict": verdict} for region, verdict in zip(row["regions"], decided, strict=True)
            ]
            hidden |= {region["number"] for region in row["regions"] if region["verdict"] == REJECT}
        return row, measured.without(hidden)

    def cells(self, row: Row) -> list:
        plain = {**row, "probability": next(iter(row.get("probabilities", {}).values()), None)}
        if "boxes" in row:
            plain["boxes"] = len(row["boxes"])
        return [plain.get(name) for name in self.header]

    def line(self, row: Row) -> Row:
        return dict(row)


def _write_image(path: Path, pixels: np.ndarray, **options: Any) -> None:
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, kind, **options))


def _with_errors(make: Callable[[], Row]) -> Callable[[], Row]:
    """Make a row now, in the thread that the model is for; of a file that turns out to be damaged, of the reason."""
    try:
        row = make()
    except ImageError as error:
        row = {"error": str(error)}
    return lambda: row


def model_settings(network: LoadedModel) -> dict[str, Any]:
    """What predictions depend on, besides the files and their batches."""
    return {
        "weights": file_hash(network.path) if network.path else _tensor_hash(network),
        "precision": network.runtime.precision,
        "engine": network.runtime.engine,
        "device": network.runtime.device.type,
        "resize": not network.tiled,
    }


def _tensor_hash(network: LoadedModel) -> str:
    """Of the tensors: random weights differ between runs."""
    found = hashlib.sha256()
    for name, tensor in network.model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
