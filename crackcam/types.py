"""What passes between the parts: model cards, predictions, regions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Self

from crackcam.errors import UserError
from crackcam.methods import EVIDENCE
from crackcam.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from crackcam.sizes import NARROWEST, CrackWidth, Scale, length_text
from crackcam.text import counted, match_name

MANY_CLASSES = 100  # more classes are counted, not listed
TOP_OF_MANY = 5  # classes that are reported where there are many

# Names of classes that are the absence of the others
ABSENCE = re.compile(
    r"negatives?|background|none|nothing|normal|good|ok|okay|sound|intact|healthy|clean|undamaged|uncracked"
    r"|(no|non|not|without)([ _-].*|(crack|damage|defect)\w*)|.*[ _-]free",
    re.IGNORECASE,
)


def absent_classes(classes: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """The classes that are the absence of the others: those named like it, and those that are known to be.

    Where all are, none is.

    Examples:
        >>> absent_classes(["Negative", "Positive"]), absent_classes(["cat", "dog"])
        (['Negative'], [])
    """
    found = [name for name in classes if name in known or ABSENCE.fullmatch(name)]
    return found if len(found) < len(classes) else []


Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Polygon = tuple[float, ...]  # x, y, x, y, ... in pixels: the pixel (0, 0) reaches from (0, 0) to (1, 1)


def library_versions(*more: str) -> dict[str, str]:
    """Versions of the libraries that compute a result, and of more that do."""
    return {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow", *more)}


@dataclass
class ModelCard:
    """What is known about a model besides its tensors: the metadata of a checkpoint.

    Attributes:
        arch: name in ``torchvision.models``, or ``timm/`` and a name in timm.
        classes: names in index order.
        image_size: side of the input in pixels; None: images of any size, as detectors take them.
        resize, interpolation, max_scale, mean, std: see :class:`crackcam.Preprocessing`.
        head: kind of head, "linear" or "multiscale".
        stages: layers that a multiscale head reads, and their channels.
        decoder: channels of its decoder; 0 where it has none, as in checkpoints of earlier versions.
        output_stride: pixels of the input for one cell of the target layer's grid.
        pretrained: description of the weights that training started from.
        training: settings of the training run, and ``held_out_hashes``.
        split: for each split that training held out, its files relative to the data folder.
        metrics: of the test split (else of the validation split) and of the best epoch; the temperature that the head
            has absorbed, and the number of near-duplicates of training images in each other split.
        versions: of the libraries that trained it.
        thresholds: detection thresholds by method and class, in the raw unit of the method's heatmaps.
        area: how the decision on a large image that is read in tiles allows for its area: ``offset`` and
            ``log_temperature``, see :func:`crackcam.models.tiles.calibrated_for_area`; empty where it is not known.
    """

    arch: str
    classes: list[str]
    image_size: int | None
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
    decoder: int = 0
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    area: dict[str, float] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the model's input; with the default size where any size is accepted."""
        size = self.image_size or Preprocessing.size
        return Preprocessing(size, self.resize, self.interpolation, self.max_scale, tuple(self.mean), tuple(self.std))

    @property
    def held_out_hashes(self) -> dict[str, str]:
        """Hashes of some files of :attr:`split`, by name; none in checkpoints of earlier versions."""
        found = self.training.get("held_out_hashes")
        known = found.items() if isinstance(found, dict) else ()
        return {name: value for name, value in known if isinstance(name, str) and isinstance(value, str)}

    @property
    def many_classes(self) -> bool:
        """Whether there are too many classes to list."""
        return len(self.classes) > MANY_CLASSES

    @property
    def knows_class_folders(self) -> bool:
        """Whether its classes may be those of a data set's folders: not those of ImageNet or COCO."""
        return self.image_size is not None and (bool(self.training) or not self.many_classes)

    def class_index(self, text: str) -> int:
        """A class by its name, however it is spelled, or by its index.

        Raises:
            UserError: there is none; all are listed, or those with similar names where there are many.
        """
        if name := match_name(text, self.classes):
            return self.classes.index(name)
        if text in map(str, range(len(self.classes))):
            return int(text)
        known = ", ".join(self.classes)
        if self.many_classes:
            inside = [name for name in self.classes if text.casefold() in name.casefold()]
            close = inside[:5] or difflib.get_close_matches(text, self.classes, n=5, cutoff=0.4)
            known = f"similar: {', '.join(close)}; or an index below {len(self.classes)}"
        raise UserError(f"no class {text!r} to explain; available: predicted, {known}")

    @property
    def absences(self) -> list[str]:
        """Classes that are the absence of the others, so that no region of an image shows them.

        Those whose map the training masked out, which leaves them a threshold of 0; and those named like it, such as
        "Negative", "background", "sound", "no crack". Where all are, none is.
        """
        masked_out = {name for name, limit in self.thresholds.get(EVIDENCE, {}).items() if limit == 0}
        return absent_classes(self.classes, masked_out)

    @property
    def present(self) -> list[str]:
        """The other classes: those that regions of an image may show."""
        return [name for name in self.classes if name not in self.absences]

    @property
    def class_summary(self) -> str:
        """'Negative, Positive', or '1,000 classes'."""
        return counted(len(self.classes), "class", "classes") if self.many_classes else ", ".join(self.classes)


@dataclass(frozen=True)
class Detection:
    """One box of a detector.

    Attributes:
        label: class index.
        name: class name.
        score: in [0, 1].
        box: (left, top, right, bottom) in pixels of the image.

    Examples:
        >>> import crackcam
        >>> crackcam.Detection(label=1, name="person", score=0.98, box=(12.0, 30.5, 80.0, 200.0)).name
        'person'
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]


class Result:
    """A result for one image. Iterating over it gives itself, so that a loop over one result and over many is alike."""

    def __iter__(self) -> Iterator[Self]:
        yield self


@dataclass(frozen=True)
class Prediction(Result):
    """The classes of one image.

    Attributes:
        label: the predicted class.
        confidence: its probability, 0..1.
        probabilities: by class name, highest first.
        path: the image file; None for an image that was passed as pixels.
        true: the true class, where it is known from the image's folder.
        detections: the boxes of a detector, best first; empty for classifiers.
        tiles: number of tiles that a large image was read in, at its own resolution; 1: it was resized as a whole.

    Examples:
        >>> import crackcam
        >>> crackcam.Prediction.of(["crack", "sound"], [0.9, 0.1]).label
        'crack'
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    path: Path | None = None
    true: str | None = None
    detections: tuple[Detection, ...] = ()
    tiles: int = 1

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        probabilities: Sequence[float],
        path: Path | None = None,
        true: str | None = None,
        tiles: int = 1,
    ) -> Prediction:
        """From probabilities in index order."""
        by_name = dict(sorted(zip(classes, probabilities, strict=True), key=lambda pair: -pair[1]))
        label = next(iter(by_name))
        return cls(label, by_name[label], by_name, path, true, tiles=tiles)

    @property
    def wrong(self) -> bool:
        """Whether the predicted class is known to be wrong."""
        return self.true is not None and self.label != self.true

    def top(self, count: int | None = None) -> dict[str, float]:
        """The ``count`` highest probabilities by class name; by default all, or 5 where there are many classes."""
        number = count or (TOP_OF_MANY if len(self.probabilities) > MANY_CLASSES else None)
        return dict(list(self.probabilities.items())[:number])

    def to_dict(self, top_k: int | None = None) -> dict:
        """As the JSON files of ``inference.py`` have it: file, true, predicted, probabilities, tiles."""
        path = None if self.path is None else str(self.path)
        return {
            "file": path,
            "true": self.true,
            "predicted": self.label,
            "probabilities": self.top(top_k),
            "tiles": self.tiles,
        }


@dataclass(frozen=True)
class Region:
    """One connected part of an image where the heatmap exceeds the detection threshold.

    Attributes:
        box: (x, y, width, height) in pixels of the image.
        area: in pixels.
        length: along its skeleton, in pixels.
        width: of the marking, not of a crack in it: mean, in pixels: area over length.
        crack: sizes of the crack in it, in pixels; None where they were not measured.
        peak: largest value of the heatmap in it, in the method's unit.
        polygons: its outer outline as COCO has it.
        width_class: in words, '0.2 to 0.3 mm', see :meth:`crackcam.sizes.CrackWidth.width_class`.
        scale: millimetres of a pixel, where they are known.
        number: from 1, in the order of the list, largest region first; as it is drawn.

    Examples:
        >>> import crackcam
        >>> crackcam.Region(box=(10, 20, 30, 4), area=90, length=30.0, width=3.0).to_dict()["box"]
        [10, 20, 30, 4]
    """

    box: Box
    area: int
    length: float
    width: float
    crack: CrackWidth | None = None
    peak: float = 0.0
    polygons: tuple[Polygon, ...] = ()
    width_class: str | None = None
    scale: Scale | None = None
    number: int = 1

    def description(self) -> str:
        """'412 px long, width 3.1 px', in mm with a scale, of the 95th percentile; '80 px long, width below 2 px'."""
        crack = self.crack
        length = f"{length_text(self.length if crack is None else crack.length, self.scale)} long"
        if crack is None:
            return length
        if not crack.measured:
            return f"{length}, width not measurable"
        width = f"below {NARROWEST:g} px" if crack.p95 is None else length_text(crack.p95, self.scale)
        return f"{length}, width {width}"

    def to_dict(self) -> dict:
        """As JSON has it: lengths in pixels, and under ``mm`` in millimetres where the scale is known."""
        crack = self.crack
        return {
            "number": self.number,
            "box": list(self.box),
            "area": self.area,
            "length": round(self.length, 2),
            "width": round(self.width, 2),
            "peak": float(f"{self.peak:.6g}"),
            "polygons": [list(polygon) for polygon in self.polygons],
            "crack": crack and crack.to_dict(),
            "mm": crack.millimetres(self.scale) if crack and self.scale else None,
            "width_class": self.width_class,
        }
