"""What a run found, as one web page that can be mailed: everything is in the file, and it asks nothing of any network.

A page is made of the document that the scripts write as JSON, and of arrays: pictures, maps, masks. Keys that are not
there leave their part of the page out; numbers that are there and are not known by name (in a row of ``pictures``, or
beside the ``max`` of a map) are shown under their own names, and pictures can be sorted by them.

The templates lie in crackcam/templates. All text is escaped by jinja2; a Content-Security-Policy lets the page run the
one script and the one style sheet that it came with, known by their hashes, and load nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.ticker import MaxNLocator
from PIL import Image

from crackcam.data import images
from crackcam.data.splits import SPLITS
from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.methods import EVIDENCE, NAMED
from crackcam.render.overlays import MASKED, draw_mask_outline, thumbnail
from crackcam.text import confidence_text, counted, percent

if TYPE_CHECKING:
    from crackcam.data.pixels import PixelSplit
    from crackcam.models.loaded import LoadedModel
    from crackcam.training.trainer import Epoch, Report

logger = logging.getLogger(__name__)


PAGE = 2000  # pictures on a page; more make report-2.html and so on
FEW = 300  # up to so many pictures are shown larger
SIDES, MAP_SIDES = (480, 256), (160, 96)  # pixels of the longer side of pictures and maps: where few, where many
MAP_SIDE = MAP_SIDES[0]
LEVELS = 64  # of heat: a third of the bytes of 256, and no eye tells them apart
OPACITY = 75  # percent, as in the figures
BARS = 3  # classes whose probability a card shows
SWITCHES = 5  # more methods are a list
MATRIX = 30  # classes; above, the most frequent confusions are listed instead
MISTAKES = 24  # of a training, the most confident ones
KNOWN = ("file", "true", "predicted", "probabilities", "target", "maps")  # keys of a row with a place of their own
SCORES = {
    "ap": "AP", "auroc": "AUROC", "peak": "peak", "energy": "energy", "best_f1": "best F1", "f1": "F1", "iou": "IoU",
    "ap_each": "AP a picture",
}  # fmt: skip
NETWORK_SCORES = {
    "deletion": "deletion, low", "insertion": "insertion, high", "road": "ROAD, high", "drop": "drop, low",
    "increase": "increase, high", "randomised": "randomised, near 0", "instability": "instability, low",
}  # fmt: skip
REGIONS = (("upper left", "top", "upper right"), ("left", "middle", "right"), ("lower left", "bottom", "lower right"))


class Layer(NamedTuple):
    """What lies over a picture: a method, its image as a data URI, its description, and numbers about it."""

    method: str
    image: str
    says: str
    numbers: dict[str, float]


class Entry(NamedTuple):
    """One picture of a page.

    Attributes:
        row: of the document's ``pictures``.
        photo: the picture as a data URI.
        size: its width and height, in pixels.
        layers: the maps.
        outline: of the mask, as a data URI, where there is one.
    """

    row: dict
    photo: str
    size: tuple[int, int]
    layers: list[Layer]
    outline: str

    @property
    def name(self) -> str:
        return Path(self.row["file"]).name

    @property
    def wrong(self) -> bool:
        return is_wrong(self.row)

    @property
    def confidence(self) -> float:
        return self.row["probabilities"][self.row["predicted"]]

    @property
    def numbers(self) -> dict[str, float]:
        return numbers(self.row, KNOWN)

    @property
    def map_numbers(self) -> dict[str, dict[str, float]]:
        """By method."""
        return {layer.method: layer.numbers for layer in self.layers}

    @property
    def empty(self) -> list[str]:
        """The methods that found nothing which speaks for the class."""
        return [name for name, of_method in self.row.get("maps", {}).items() if of_method.get("max", 1) <= 0]


class Table(NamedTuple):
    """A table of texts; ``quiet`` rows are for comparison only."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    quiet: frozenset[int] = frozenset()


class Line(NamedTuple):
    """One line of a chart: its name, whether it is the second or the first in importance, points in the chart."""

    name: str
    kind: str
    points: list[tuple[float, float]]


class Chart(NamedTuple):
    """A chart in a box of 320 x 190, as the template draws it.

    Attributes:
        title: above it.
        says: what it shows, for who cannot see it.
        lines: drawn, in order.
        x, y: ticks, as places and texts.
        label: below the horizontal axis.
        bars: (left, top, width, height, how opaque, what it says).
    """

    title: str
    says: str
    lines: list[Line]
    x: list[tuple[float, str]]
    y: list[tuple[float, str]]
    label: str
    bars: Sequence[tuple[float, float, float, float, float, str]] = ()


# -- pages -----------------------------------------------------------------------------------------------------------


def write(
    path: Path, document: dict, pictures: Sequence[np.ndarray] | None = None,
    maps: dict[str, list[np.ndarray]] | None = None, colours: Colormap | None = None,
    masks: Sequence[np.ndarray] | None = None,
) -> None:  # fmt: skip
    """Write a report, atomically, and say how large it is: ``path``, and pages beside it where there are many pictures.

    Args:
        path: ends in .html.
        document: as the scripts write it beside their figures.
        pictures: (H, W, 3) uint8, one for each row of ``document["pictures"]``; None: their files are read again.
        maps: by method, one for each picture, from :func:`crackcam.explaining.small_map`.
        colours: of the maps.
        masks: (H, W) bool, one for each picture; none, or an empty list, where there are none.
    """
    rows = document["pictures"]
    order = list(range(len(rows)))
    if "history" not in document and any(row["true"] is not None for row in rows):
        order.sort(key=lambda i: (not is_wrong(rows[i]), rows[i]["probabilities"][rows[i]["predicted"]]))
    pages = [order[start : start + PAGE] for start in range(0, len(order), PAGE)] or [[]]
    names = [path.name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, len(pages) + 1))]
    written = 0
    for number, chosen in reversed(list(enumerate(pages))):  # the first one last: what it links to is there
        entries = _entries(rows, chosen, pictures, maps or {}, colours, masks)
        html = render({**document, "pictures": [rows[i] for i in chosen]}, entries, rows, names, number, colours)
        page = html.encode("utf-8", "backslashreplace")  # names of files need not be text
        write_atomically(path.with_name(names[number]), functools.partial(Path.write_bytes, data=page))
        written += len(page)
    said = counted(len(pages), "page") if len(pages) > 1 else counted(len(rows), "picture")
    logger.info(f"report: {path}, {said}, {written / 1e6:.1f} MB")


def render(
    document: dict, entries: list[Entry], rows: list[dict], names: Sequence[str] = ("report.html",), number: int = 0,
    colours: Colormap | None = None, date: datetime | None = None,
) -> str:  # fmt: skip
    """One page.

    Args:
        document: its ``pictures`` are the rows of this page.
        entries: the same, as they are shown.
        rows: of all pages.
        names: file names of all pages.
        number: which of them this is, from 0.
        colours: of the maps.
        date: when the run ended; default: now.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import, and only of use here
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {}  # in the order of the run, not of the alphabet
    templates.filters |= {"percent": percent, "chance": confidence_text, "number": as_text, "label": as_label}
    style, script = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js"))
    methods = list(document.get("methods", {}))
    many = len(rows) > FEW
    return templates.get_template("report.html").render(
        style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script),  # noqa: S704 - ours
        title=title(document), tiles=key_figures(document, rows), facts=facts(document, rows, date or datetime.now()),
        tables=tables(document), charts=charts(document), matrix=matrix(document), document=without_nan(document),
        entries=entries, methods=methods, switches=SWITCHES, opacity=OPACITY, bars=BARS,
        legend=_legend(colours) if colours and methods else "", ends=ends,
        classes=sorted({name for row in document["pictures"] for name in (row["true"], row["predicted"]) if name}),
        known=any(row["true"] is not None for row in document["pictures"]),
        sortable=sortable(entries),
        stage=stage([entry.size for entry in entries]), names=names, page=number,
        side=SIDES[many], map_side=MAP_SIDES[many],
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# -- pictures --------------------------------------------------------------------------------------------------------


def _entries(
    rows: list[dict], chosen: list[int], pictures: Sequence[np.ndarray] | None, maps: dict[str, list[np.ndarray]],
    colours: Colormap | None, masks: Sequence[np.ndarray] | None,
) -> list[Entry]:  # fmt: skip
    many = len(rows) > FEW
    side, map_side = SIDES[many], MAP_SIDES[many]
    palette = _palette(colours) if colours else None

    def entry(i: int, picture: np.ndarray) -> Entry:
        small = thumbnail(picture, side)
        layers = [_layer(name, thumbnail(of_method[i], map_side), palette, rows[i]) for name, of_method in maps.items()]
        outline = _outline(masks[i]) if masks else ""
        return Entry(rows[i], _webp(small), small.shape[1::-1], layers, outline)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(entry, chosen, _read(rows, chosen, pictures, side)))


def _read(
    rows: list[dict], chosen: list[int], pictures: Sequence[np.ndarray] | None, side: int
) -> Iterator[np.ndarray]:
    if pictures is not None:
        yield from (pictures[i] for i in chosen)
        return
    files = [Path(rows[i]["file"]) for i in chosen]
    for item in images.read_images(files, functools.partial(thumbnail, side=side)):
        if isinstance(item, images.UnreadableImage):
            raise UserError(f"{item.path} could be read before, and cannot now: {item.reason}")
        yield item.pixels


def _layer(method: str, heat: np.ndarray, palette: np.ndarray | None, row: dict) -> Layer:
    of_method = numbers(row.get("maps", {}).get(method, {}), ("max",))
    if heat.ndim == 3 or palette is None:
        return Layer(method, _webp(heat), f"picture by {method}", of_method)
    image = _png(np.rint(heat / 255 * (LEVELS - 1)).astype(np.uint8), palette)
    return Layer(method, image, f"heat map by {method}, {hottest(heat)}", of_method)


def hottest(heat: np.ndarray) -> str:
    """Where a map (h, w) has its peak, in words, for who cannot see it."""
    if not heat.any():
        return "empty"
    places = np.argwhere(heat == heat.max()).mean(axis=0) / heat.shape
    row, column = (min(int(3 * place), 2) for place in places)
    return f"hottest at the {REGIONS[row][column]}"


def _webp(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=82, method=2)
    return _uri("webp", file)


def _palette(colours: Colormap) -> np.ndarray:
    """(LEVELS, 4) uint8: the colours of heat, and how much of the picture each covers, as in the figures."""
    heat = np.linspace(0, 1, LEVELS)
    return np.rint(np.column_stack([colours(heat)[:, :3], heat**0.7]) * 255).astype(np.uint8)


def _png(indices: np.ndarray, palette: np.ndarray) -> str:
    image, file = Image.fromarray(indices), io.BytesIO()
    image.putpalette(palette[:, :3].tobytes())
    image.save(file, "PNG", transparency=palette[:, 3].tobytes())
    return _uri("png", file)


def _legend(colours: Colormap) -> str:
    """From cold to hot, one pixel high."""
    return _png(np.arange(LEVELS, dtype=np.uint8)[None], _palette(colours))


def ends(method: str) -> tuple[str, str]:
    """What the first and the last colour of a map mean; of a method that makes pictures, ("", what they show)."""
    if method in NAMED and NAMED[method].signed_image:
        return "", f"{NAMED[method].description}; grey: none. A picture of its own, not a heat map."
    if method == EVIDENCE:
        return "0 %", "100 %: how probably a place is of that class"
    return "cold", "hot, relative to each picture’s own maximum"


def _outline(mask: np.ndarray) -> str:
    scale = SIDES[0] / max(mask.shape)
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    line = draw_mask_outline(np.zeros((height, width, 3), np.uint8), mask)[..., 1] > 0
    return _png(line.astype(np.uint8), np.array([[0, 0, 0, 0], [*MASKED, 255]], np.uint8))


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def sortable(entries: list[Entry]) -> list[str]:
    """Names of numbers that differ between pictures."""
    values: dict[str, set[float]] = {}
    for entry in entries:
        for found in (entry.numbers, *entry.map_numbers.values()):
            for name, value in found.items():
                values.setdefault(name, set()).add(value)
    return [name for name, of_name in values.items() if len(of_name) > 1]


def stage(sizes: Iterable[tuple[int, int]]) -> str:
    """The shape in which pictures are shown: that of most of them."""
    shape = float(np.median([width / height for width, height in sizes] or [1]))
    return "wide" if shape > 1.15 else "tall" if shape < 0.87 else "square"


# -- what is said ----------------------------------------------------------------------------------------------------


def is_wrong(row: dict) -> bool:
    """Whether a prediction is known to be wrong."""
    return row["true"] is not None and row["predicted"] != row["true"]


def numbers(values: dict, but: Iterable[str] = ()) -> dict[str, float]:
    """The finite numbers of a dictionary and of those in it, but for some keys."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name in but or isinstance(value, bool):
            continue
        if isinstance(value, dict):
            found |= numbers(value)
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = value
    return found


def as_text(value: float, name: str = "") -> str:
    """A number as it is read: a share as percent, a whole number whole, others with three digits."""
    if name == "share" or name.endswith("_share"):
        return percent(value)
    if name in SCORES:
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def as_label(name: str) -> str:
    """'length_px' -> 'length px'; 'ap' -> 'AP'."""
    return SCORES.get(name, name.replace("_", " "))


def title(document: dict) -> str:
    """What the page is about."""
    if "history" in document:
        return f"Training of {document['checkpoint']['arch']}"
    if "methods" not in document:
        return f"Predictions: {document['type'] or 'pictures'}"
    target = document["target"]
    return "What the predictions rest on" if target == "predicted" else f"What speaks for {target}"


def key_figures(document: dict, rows: list[dict]) -> list[tuple[str, str, str]]:
    """The few numbers to see first: name, value, remark."""
    if "history" in document:
        metrics, split = document["metrics"], document["split"]
        epochs = len([e for e in document["history"] if e["epoch"]])
        epoch = f"of {epochs}" if epochs else "no fine-tuning"
        return [
            ("accuracy", percent(metrics["accuracy"]), f"{split} split, {document['scored']:,} pictures"),
            ("balanced accuracy", percent(metrics["balanced_accuracy"]), "mean over the classes"),
            ("calibration error", percent(metrics["ece"]), f"{percent(metrics['ece_before'])} before calibration"),
            ("best epoch", str(document["best_epoch"]) if document["best_epoch"] else "linear probe", epoch),
        ]
    known = [row for row in rows if row["true"] is not None]
    right = len(known) - sum(map(is_wrong, known))
    sure = [row["probabilities"][row["predicted"]] for row in rows]
    figures = [("pictures", f"{len(rows):,}", _counts([row["predicted"] for row in rows]))]
    if known:
        figures.append(("right", percent(right / len(known)), f"{right:,} of {len(known):,}"))
    if rows:
        figures.append(
            ("mean confidence", confidence_text(float(np.mean(sure))), f"least {confidence_text(min(sure))}")
        )
    if document.get("unreadable"):
        figures.append(("not readable", f"{len(document['unreadable']):,}", "listed below"))
    scores = document.get("scores", [])  # the best ones first
    best, blind = (next((row for row in scores if row["baseline"] is kind), None) for kind in (False, True))
    if best:
        rival = f"; {blind['method']}, which knows no network, {blind['ap']:.3f}" if blind else ""
        figures.append(("best average precision", f"{best['ap']:.3f}", best["method"] + rival))
    return figures


def _counts(predicted: list[str], most: int = 3) -> str:
    names = sorted(set(predicted), key=lambda name: (-predicted.count(name), name))
    rest = f", {len(names) - most} other classes" if len(names) > most else ""
    return "predicted " + ", ".join(f"{name} {predicted.count(name):,}" for name in names[:most]) + rest


def facts(document: dict, rows: list[dict], date: datetime) -> list[tuple[str, str]]:
    """How the run was made: name and value."""
    checkpoint = document["checkpoint"]
    split = f"{document['split']} split" if document.get("split") else ""
    folders = {str(Path(row["file"]).parent) for row in rows}
    where = commonpath(folders) if len({Path(folder).is_absolute() for folder in folders}) == 1 else ""
    chosen = f"seed {document['seed']}" if split and "history" not in document else ""
    found = [
        ("asked", document["command"]),
        ("model", ", ".join(filter(None, [
            checkpoint["arch"], checkpoint["file"], checkpoint["sha256"] and f"SHA-256 {checkpoint['sha256'][:16]}…",
        ]))),
        ("started from", document.get("pretrained", "")),
        ("pictures", document.get("data") or ", ".join(filter(None, [where, split, chosen]))),
        ("maps", "; ".join(
            f"{name} at {', '.join(layers)}"
            + (f", {document['seconds'][name]:.1f} s" if name in document.get("seconds", {}) else "")
            for name, layers in document.get("methods", {}).items()
        )),
        ("with", ", ".join(f"{key} {document[key]}" for key in ("stride", "fuse", "refine") if document.get(key))),
        ("machine", f"{document['device']}, {document['precision']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
        ("made", f"{date:%-d %B %Y, %H:%M}"),
    ]  # fmt: skip
    return [(name, value) for name, value in found if value]


def tables(document: dict) -> list[Table]:
    """Scores, comparisons, classes, data: whatever the document has."""
    found = []
    if scores := document.get("scores"):
        found.append(_comparison("Maps against masks", scores, SCORES))
    if "history" not in document and (metrics := document.get("metrics")):
        found.append(_comparison("Maps against the network", metrics, NETWORK_SCORES))
    if verified := document.get("verified"):
        head = ["method", "largest difference", "rank correlation", "times as fast", "verdict"]
        rows = [[as_text(v) if isinstance(v, float) else str(v) for v in row.values()] for row in verified]
        found.append(Table("Compared with the package grad-cam", head, rows))
    if "history" in document:
        head = ["class", "precision", "recall", "F1", "pictures"]
        rows = [
            [name, *(percent(row[key]) for key in ("precision", "recall")), f"{row['f1']:.3f}", f"{row['pictures']:,}"]
            for name, row in document["metrics"]["per_class"].items()
        ]
        found.append(Table(f"Classes, {document['split']} split", head, rows))
        if len(document["classes"]) > MATRIX:
            found.append(_confusions(document))
        found += _data_tables(document["summary"])
        shared = document["near_duplicates"]
        alike = [[split, f"{shared[split]:,}"] for split in SPLITS if split in shared]
        found.append(Table("Near-duplicates of training pictures", ["split", "pictures"], alike))
    if unreadable := document.get("unreadable"):
        found.append(Table("Not readable", ["file", "why"], [[row["file"], row["error"]] for row in unreadable]))
    return found


def _comparison(caption: str, scores: list[dict], names: dict[str, str]) -> Table:
    """Methods, and maps that know no network; scores that nobody has are left out."""
    known = [key for key in names if any(row.get(key) is not None for row in scores)]
    rows = [
        [
            f"{row['method']} (knows no network)" if row["baseline"] else row["method"],
            *("-" if row.get(key) is None else f"{row[key]:.3f}" for key in known),
        ]
        for row in scores
    ]
    quiet = frozenset(i for i, row in enumerate(scores) if row["baseline"])
    return Table(caption, ["method", *(names[key] for key in known)], rows, quiet)


def _confusions(document: dict, most: int = 20) -> Table:
    counts, names = np.array(document["confusion"]), document["classes"]
    np.fill_diagonal(counts, 0)
    pairs = [divmod(int(i), len(names)) for i in counts.ravel().argsort(kind="stable")[::-1][:most]]
    rows = [[names[t], names[p], f"{counts[t, p]:,}"] for t, p in pairs if counts[t, p]]
    return Table("Most frequent confusions", ["true", "predicted", "pictures"], rows)


def _data_tables(summary: dict) -> list[Table]:
    splits = sorted(summary["pictures"], key=SPLITS.index)
    names = list(next(iter(summary["pictures"].values())))
    counts = [[name, *(f"{summary['pictures'][split][name]:,}" for split in splits)] for name in names]
    sizes = [[f"{width} x {height}", f"{count:,}"] for width, height, count in summary["sizes"]]
    if summary["other_sizes"]:
        sizes.append(["other sizes", f"{summary['other_sizes']:,}"])
    found = [Table("Pictures", ["class", *splits], counts), Table("Sizes in pixels", ["size", "pictures"], sizes)]
    if summary["duplicates"]:
        rows = [[", ".join(group["files"]), group["why"]] for group in summary["duplicates"]]
        more = summary["duplicated"] - len(rows)
        rows += [[f"and {counted(more, 'picture')} more that stand there twice", ""]] if more > 0 else []
        found.append(Table("Pictures that stand there twice", ["files", "why it matters"], rows))
    else:
        found.append(Table("Pictures that stand there twice", ["files"], [["none"]]))
    return found


def matrix(document: dict) -> list[tuple[str, list[tuple[int, str, int]]]]:
    """The confusion matrix: of each true class its name and, by predicted class, count, share and shade (0 to 10)."""
    if "confusion" not in document or len(document["classes"]) > MATRIX:
        return []
    counts = np.array(document["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        (name, [(int(n), percent(float(s)), round(10 * float(s))) for n, s in zip(row, of_row, strict=True)])
        for name, row, of_row in zip(document["classes"], counts, shares, strict=True)
    ]


# -- charts ----------------------------------------------------------------------------------------------------------

LEFT, TOP, WIDTH, HEIGHT = 38.0, 8.0, 270.0, 144.0  # of the plot, in the chart's box


def charts(document: dict) -> list[Chart]:
    """Loss and accuracy over the epochs, and how far confidence can be believed."""
    if "history" not in document:
        return []
    found = []
    history = document["history"]
    for measure in ("loss", "accuracy") if len(history) > 1 else ():  # a linear probe alone makes no curve
        series = {
            name: [(e["epoch"], e[f"{key}_{measure}"]) for e in history if e[f"{key}_{measure}"] is not None]
            for name, key in (("training, augmented", "train"), ("validation", "val"))
        }
        values = [value for points in series.values() for _, value in points]
        low, high = (0.0, max(values) * 1.05) if measure == "loss" else (max(0.0, min(values) - 0.02), 1.0)
        ends = (history[0]["epoch"], history[-1]["epoch"])
        last = history[-1][f"val_{measure}"]
        says = f"{measure} over {counted(len(history), 'epoch')}: validation ends at {as_text(last)}"
        found.append(_chart(measure, says, series, ends, (low, high or 1.0), "epoch"))
    return [*found, _reliability_chart(document["reliability"], document["metrics"]["ece"])]


def _chart(
    title: str, says: str, series: dict[str, list[tuple[float, float]]], x: tuple[float, float],
    y: tuple[float, float], label: str,
) -> Chart:  # fmt: skip
    def place(point: tuple[float, float]) -> tuple[float, float]:
        across, up = (point[0] - x[0]) / (x[1] - x[0]), (point[1] - y[0]) / (y[1] - y[0])
        return round(LEFT + across * WIDTH, 1), round(TOP + (1 - up) * HEIGHT, 1)

    def ticks(ends: tuple[float, float], whole: bool) -> list[float]:
        values = MaxNLocator(5, integer=whole).tick_values(*ends)
        return [float(value) for value in values if ends[0] - 1e-9 <= value <= ends[1] + 1e-9]

    lines = [
        Line(name, "second" if i == 0 and len(series) > 1 else "first", [place(point) for point in points])
        for i, (name, points) in enumerate(series.items())
        if points
    ]
    across = [(place((value, y[0]))[0], f"{value:g}") for value in ticks(x, label == "epoch")]
    up = [(place((x[0], v))[1], f"{v:g}" if title == "loss" else f"{100 * v:g} %") for v in ticks(y, False)]
    return Chart(title, says, lines, across, up, label)


def _reliability_chart(reliability: dict[str, list], error: float) -> Chart:
    """Of the lists of a :class:`crackcam.calibrating.Reliability`."""
    bins = list(zip(reliability["confidence"], reliability["accuracy"], reliability["count"], strict=True))
    chart = _chart(
        "reliability", f"share right by confidence: expected calibration error {percent(error)}",
        {"perfect": [(0, 0), (1, 1)], "observed": [(sure, right) for sure, right, count in bins if count]},
        (0, 1), (0, 1), "confidence",
    )  # fmt: skip
    step, most = WIDTH / len(bins), max(reliability["count"])
    bars = [
        (round(LEFT + i * step + 1, 1), round(TOP + (1 - right) * HEIGHT, 1), round(step - 2, 1),
         round(right * HEIGHT, 1), round(0.2 + 0.8 * count / most, 2),
         f"{counted(count, 'picture')} with a confidence of about {percent(sure)}: {percent(right)} right")
        for i, (sure, right, count) in enumerate(bins) if count
    ]  # fmt: skip
    return chart._replace(bars=bars)


# -- training --------------------------------------------------------------------------------------------------------


def write_training(
    path: Path, network: LoadedModel, splits: dict[str, PixelSplit], split: str, result: Report, history: list[Epoch]
) -> None:
    """The report of a training: curves, confusions, calibration, the most confident mistakes under maps, the data.

    Args:
        path: of the page.
        network: as it was kept.
        splits: all that training saw or scored.
        split: which of them ``result`` is about.
        result: the last word on the network.
        history: its epochs.
    """
    from matplotlib import colormaps

    from crackcam import classifier, files
    from crackcam.data import statistics
    from crackcam.explain import heatmaps
    from crackcam.models import target_layers
    from crackcam.models.multiscale import Multiscale

    card, scored = network.card, splits[split]
    labels, probabilities = scored.labels.numpy(), result.probabilities
    predicted = probabilities.argmax(axis=1)
    wrong = [int(i) for i in probabilities.max(axis=1).argsort(kind="stable")[::-1] if predicted[i] != labels[i]]
    worst, targets = wrong[:MISTAKES], [int(predicted[i]) for i in wrong[:MISTAKES]]
    pictures = [images.read_image(scored.paths[i]) for i in worst]
    method = EVIDENCE if isinstance(network.model, Multiscale) else "gradcam"
    layers = target_layers.find_target_layers(network.model, card.image_size, None, method == EVIDENCE) if worst else []
    heats = {method: heatmaps.heatmaps(network, method, layers, scored.pixels[worst], targets)} if worst else {}
    rows = [
        {
            "file": str(scored.paths[i]), "true": card.classes[labels[i]], "predicted": card.classes[predicted[i]],
            "probabilities": classifier.by_class(network, probabilities[i]), "target": card.classes[predicted[i]],
            "maps": {name: {"max": float(heat[rank].max())} for name, heat in heats.items()},
        }
        for rank, i in enumerate(worst)
    ]  # fmt: skip
    document = {
        "schema": classifier.SCHEMA, "command": card.training["command"], "split": split, "data": card.training["data"],
        "device": str(network.runtime.device),
        "precision": network.runtime.precision,
        "checkpoint": {
            "file": str(network.path), "sha256": files.file_hash(network.path) if network.path else None,
            "arch": card.arch,
        },
        "pretrained": card.pretrained, "classes": card.classes, "versions": card.versions,
        "history": [vars(epoch) for epoch in history], "best_epoch": card.metrics["best_epoch"],
        "metrics": result.metrics, "scored": len(scored), "mistakes": len(wrong),
        "confusion": result.confusion.tolist(),
        "reliability": {name: values.tolist() for name, values in vars(result.reliability).items()},
        "summary": statistics.summarize(splits, card.classes), "near_duplicates": card.metrics["near_duplicates"],
        "methods": {name: [layer.name for layer in layers] for name in heats}, "target": "predicted", "pictures": rows,
    }  # fmt: skip
    sizes = [thumbnail(picture, MAP_SIDE).shape[:2] for picture in pictures]
    maps = {
        name: [
            heatmaps.small_map(
                heatmaps.unframed(heat, picture.shape, card.preprocessing), size, card.preprocessing, name != EVIDENCE
            )
            for heat, picture, size in zip(of_method, pictures, sizes, strict=True)
        ]
        for name, of_method in heats.items()
    }
    write(path, document, pictures, maps, colormaps["inferno"])


def without_nan(value: Any) -> Any:
    """The same with None for what is not a finite number, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
