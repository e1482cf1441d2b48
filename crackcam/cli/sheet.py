"""What ``xai.py`` shows of a few images: figures, rows of the JSON file, saved heatmaps, the report.

One image is worked on at a time, because heatmaps at the size of large images are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from crackcam.cli.runs import ExplainRun
from crackcam.data.capture import Capture, read_capture
from crackcam.evaluation import mask_scores
from crackcam.explain.detectors import Detector
from crackcam.explain.explainer import Comparison
from crackcam.explain.explanation import Explanation
from crackcam.explain.heatmaps import as_map
from crackcam.explain.thresholds import complete_thresholds
from crackcam.files import write_atomically
from crackcam.methods import EVIDENCE, NAMED
from crackcam.models.loaded import LoadedModel
from crackcam.render import captions, figures, report
from crackcam.render.figures import ComparisonRow, Tile, detection_tile, model_label
from crackcam.render.overlays import LINES, PROBABILITY, SHOWN_SIDE, Style, choose_style, draw_mask_outline, thumbnail
from crackcam.text import shorten
from crackcam.types import TOP_OF_MANY

SCORED_ROWS = 9  # images in the figure of scores
NAME_LENGTH = 24  # characters of a class below an image


@dataclass(frozen=True)
class View:
    """One heatmap of one image.

    Attributes:
        entry: for the JSON file.
        caption: what was measured, with ``--style mask``.
        drawing: (h, w, 3) uint8 for the figure; None where the figure does not show it.
        heatmap: (H, W) float32 at the image's own size; None where nothing needs it.
        small: for the report: uint8, of a signed image (h, w, 3), else (h, w); None without a report.
    """

    entry: dict
    caption: str
    drawing: np.ndarray | None
    heatmap: np.ndarray | None
    small: np.ndarray | None


@dataclass
class Sheet:
    """All images, worked through once.

    Args:
        asked: the settings.
        network: the model.
        compared: what was explained.
        masks: (H, W) bool, one for each image, where there are any.

    Attributes:
        tiles: for the figure.
        views: of each image, by every method.
        rows: for the JSON file.
        known_thresholds: by method, of each image; nan where none is known.
        side: longer side of an image in the figure, in pixels.
        captures: with ``--style mask``, when, where and how images were taken, by their files.
    """

    asked: ExplainRun
    network: LoadedModel
    compared: Comparison | None
    masks: Sequence[np.ndarray] = ()
    tiles: list[Tile] = field(default_factory=list)
    views: list[list[View]] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    known_thresholds: dict[str, list[float]] = field(default_factory=dict)
    side: int = SHOWN_SIDE
    captures: dict[Path | None, Capture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        explain = self.asked.explain
        self.style = choose_style(explain.style, explain.colormap)
        if self.compared is not None:
            compared = self.compared
            self._work_through([compared.explanations(i) for i in range(len(compared.images))])

    @classmethod
    def of_boxes(cls, asked: ExplainRun, network: Detector, explained: list[list[Explanation]]) -> Sheet:
        """The heatmaps of a detector's boxes."""
        sheet = cls(asked, network, None, side=round(figures.DPI * figures.detection_side(len(explained))))
        sheet._work_through(explained)
        return sheet

    @property
    def label(self) -> str:
        """The model, for figures."""
        return model_label(self.network.card.arch, self.network.source)

    @property
    def methods(self) -> list[str]:
        """Names of the methods that were used."""
        if self.compared is not None:
            return list(self.compared.explainers)
        return list(self.asked.explain.method)

    @property
    def legend(self) -> Style:
        """The style, with what its colors stand for in the heatmaps of these methods."""
        style, methods = self.style, self.methods
        if not style.unit:
            return style
        signed = [method for method in methods if NAMED[method].signed_image]
        relative = [style.unit] if set(methods) - {*signed, EVIDENCE} else []
        absolute = f"{LINES} probability" if style.name == "contours" else PROBABILITY
        probability = [f"{EVIDENCE}: {absolute}"] if EVIDENCE in methods else []
        own_colors = [f"{', '.join(signed)}: signed, grey is zero"] if signed else []
        unit = "; ".join([*relative, *probability, *own_colors])
        return style._replace(unit=unit, bar=style.bar and len(signed) < len(methods))

    @property
    def heatmaps(self) -> dict[str, list[np.ndarray]]:
        """By method, the heatmaps at the images' sizes, where there are masks to score them against."""
        found = zip(*self.views, strict=True)
        return {
            method: [view.heatmap for view in views if view.heatmap is not None]
            for method, views in zip(self.methods, found, strict=True)
        }

    # -- one image after the other -----------------------------------------------------------------------------------

    def _work_through(self, explained: list[list[Explanation]]) -> None:
        for explanations in explained:
            for each in explanations:
                self.known_thresholds.setdefault(each.method, []).append(each.threshold)
        images = _with_thresholds(explained, self.methods) if self.style.name == "mask" else explained
        for index, explanations in enumerate(images):
            in_figure = index < SCORED_ROWS or not self.masks
            views = [self._view(explanation, in_figure) for explanation in explanations]
            self.views.append(views)
            self._append(explanations[0], views)

    def _view(self, explanation: Explanation, in_figure: bool) -> View:
        analysis, masked = self.asked.analysis, self.style.name == "mask"
        whole = None
        if self.asked.explain.refine or analysis.masks or analysis.save_maps or masked:
            whole = explanation.heatmap
        entry: dict = {"max": explanation.peak(whole)}
        if whole is not None and analysis.save_maps:
            entry["file"] = self._save(analysis.save_maps, explanation, whole)
        small = None
        if self.asked.output.report:
            small = report_map(explanation, thumbnail(explanation.image, report.MAP_SIDE).shape[:2])
        measured, caption = None, ""
        if masked:
            scale = self._capture(explanation).scale(self.asked.sizes)
            measured = explanation.measure(None, whole, scale, self.asked.sizes.limits)
            entry |= {"threshold": explanation.finite_threshold, **measured.as_row()}
            one_line = self.asked.explain.several or bool(explanation.prediction.detections)
            caption = measured.description(short=one_line)
        alone = self.asked.explain.several or bool(self.masks)
        drawing = explanation.draw(self.style, self.side, measured, beside=not alone) if in_figure else None
        return View(entry, caption, drawing, whole if analysis.masks else None, small)

    def _capture(self, explanation: Explanation) -> Capture:
        """When, where and how an image was taken."""
        path = explanation.path
        if path not in self.captures:
            self.captures[path] = read_capture(path) if path else Capture()
        return self.captures[path]

    def _save(self, folder: Path, explanation: Explanation, heatmap: np.ndarray) -> str:
        """Write a heatmap as <stem>.npy, or <stem>_<method>.npy; returns the file's name."""
        method = f"_{explanation.method}" if self.asked.explain.several else ""
        path = folder / f"{explanation.path.stem if explanation.path else 'image'}{method}.npy"
        write_atomically(path, lambda temporary: np.save(temporary, heatmap))
        return str(path)

    def _append(self, explanation: Explanation, views: list[View]) -> None:
        """The tile and the row of an image."""
        prediction, top_k = explanation.prediction, self.asked.predict.top_k
        name = shorten(explanation.target, NAME_LENGTH)
        found = any(view.entry["max"] for view in views)
        note = captions.note(explanation.method, name, found)
        shown = thumbnail(explanation.image, self.side)
        drawing = views[0].drawing
        if not self.asked.explain.several and not self.masks and drawing is not None:
            note = views[0].caption or note
            shown = drawing
        path = prediction.path.name if prediction.path else ""
        if prediction.detections:
            caption = "" if self.asked.explain.several else views[0].caption
            self.tiles.append(detection_tile(explanation.image, prediction, shown, caption))
        else:
            self.tiles.append(Tile(shown, path, prediction.top(top_k), prediction.true, note))
        maps = {method: view.entry for method, view in zip(self.methods, views, strict=True)}
        row = {**prediction.to_dict(top_k), "target": explanation.target, "maps": maps}
        if self.style.name == "mask":
            capture = self._capture(explanation)
            scale = capture.scale(self.asked.sizes)
            row |= {"size": list(explanation.image.shape[1::-1]), "capture": capture.to_dict()}
            row["mm_per_pixel"] = scale.mm_per_pixel if scale else None
        self.rows.append(row)

    # -- what comes of them ------------------------------------------------------------------------------------------

    def draw(self, path: Path, title: str) -> None:
        """The figure: one method's grid, several side by side, or heatmaps beside masks."""
        style, asked = self.legend, self.asked
        if self.masks:
            rows = [self._scored_row(index) for index in range(min(SCORED_ROWS, len(self.tiles)))]
            figures.comparison(path, title, ["predicted, mask", *self.methods], rows, style, self.label)
        elif asked.explain.several:
            self._draw_comparison(path, title)
        else:
            method = self.methods[0]
            lines = asked.predict.top_k or (1 if self.network.path else TOP_OF_MANY)
            heading = title if method == EVIDENCE else f"{method}: {title}"
            figures.heatmap_grid(path, heading, self.tiles, style, lines, self.label)

    def draw_boxes(self, path: Path, title: str) -> None:
        """The figure of a detector."""
        if self.asked.explain.several:
            self._draw_comparison(path, title)
        else:
            figures.detection_grid(path, f"{self.methods[0]}: {title}", self.tiles, self.style, self.label)

    def _draw_comparison(self, path: Path, title: str) -> None:
        rows = [
            ComparisonRow(tile, _drawings(views), [view.caption for view in views] if self.style.name == "mask" else ())
            for tile, views in zip(self.tiles, self.views, strict=True)
        ]
        first = "detected" if self.tiles[0].boxes else "predicted"
        figures.comparison(path, title, [first, *self.methods], rows, self.legend, self.label)

    def _scored_row(self, index: int) -> ComparisonRow:
        """One image with its mask, and the average precision of each heatmap."""
        tile, mask, views = self.tiles[index], self.masks[index], self.views[index]
        captions = [
            mask_scores.average_precision_caption(view.heatmap, mask) for view in views if view.heatmap is not None
        ]
        return ComparisonRow(tile._replace(image=draw_mask_outline(tile.image, mask)), _drawings(views), captions)

    def write_report(self, path: Path, document: dict) -> None:
        """Write the HTML report and name it in the document; with masks, each heatmap's average precision too."""
        assert self.compared is not None
        for row, mask, views in zip(self.rows, self.masks, self.views, strict=False):
            for method, view in zip(self.methods, views, strict=True):
                if mask.any() and view.heatmap is not None:
                    row["maps"][method]["ap"] = mask_scores.average_precision(view.heatmap, mask)
        smalls = {
            method: [view.small for view in views if view.small is not None]
            for method, views in zip(self.methods, zip(*self.views, strict=True), strict=True)
        }
        arrays = [image.pixels for image in self.compared.images]
        shown = report.Heatmaps(smalls, self.style.colormap, frozenset({EVIDENCE}))
        report.write(path, document, arrays, shown, self.masks)
        document["report"] = str(path)


def _drawings(views: Sequence[View]) -> list[np.ndarray]:
    return [view.drawing for view in views if view.drawing is not None]


def report_map(explanation: Explanation, size: tuple[int, int]) -> np.ndarray:
    """The heatmap for a report: uint8, of a signed image (h, w, 3), else (h, w)."""
    shown = explanation.resized(size)
    return shown if shown.ndim == 3 else np.rint(shown * 255).astype(np.uint8)


def _with_thresholds(explained: list[list[Explanation]], methods: Sequence[str]) -> Iterator[list[Explanation]]:
    """The explanations, with thresholds that are not known replaced by Otsu's over all images of a method."""
    by_method = {method: [row[i] for row in explained] for i, method in enumerate(methods)}
    complete = {
        method: complete_thresholds(
            [each.threshold for each in of_method], method, [as_map(each.map) for each in of_method]
        )
        for method, of_method in by_method.items()
    }
    for i, row in enumerate(explained):
        yield [replace(each, threshold=complete[each.method][i]) for each in row]
