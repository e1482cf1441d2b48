"""What xai.py shows: maps as its figures and its report draw them, as its JSON file describes them, and as saved.

One picture is worked on at a time: maps at the size of large pictures are large.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from crackcam import classifier, files, text
from crackcam.classifier import LoadedModel, Selection
from crackcam.cli import console
from crackcam.data.images import DecodedImage
from crackcam.evaluation import mask_scores, regions
from crackcam.explain import heatmaps
from crackcam.explain.methods import EVIDENCE, NAMED
from crackcam.explain.refinement import refine
from crackcam.models.target_layers import TargetLayer
from crackcam.preprocessing import Geometry
from crackcam.render import figures, overlays
from crackcam.render import report as report_page
from crackcam.render.figures import AnatomySteps, ComparisonRow, Tile
from crackcam.render.overlays import SHOWN_SIDE, Style

SCORED_ROWS = 9  # pictures in the figure of scores


class View(NamedTuple):
    """One map of one picture.

    Attributes:
        entry: what the JSON file says of it.
        says: what was found, where the map was cut.
        draw: makes what the figure shows, (h, w, 3) uint8.
        whole: (H, W) float32 at the picture's own size, refined where asked for; None where nothing needs it.
        small: for the report, where there is one: uint8, of a signed picture (h, w, 3), else (h, w).
    """

    entry: dict
    says: str
    draw: Callable[[], np.ndarray]
    whole: np.ndarray | None
    small: np.ndarray | None


def view(
    args: argparse.Namespace, style: Style, picture: DecodedImage, method: str, heat: torch.Tensor, geometry: Geometry,
    threshold: float, side: int = SHOWN_SIDE,
) -> View:  # fmt: skip
    """Look at a map as the flags say; saves it where they do.

    Args:
        heat: (size, size), or a signed picture (3, size, size), in the method's raw unit.
        threshold: where ``--style mask`` cuts it.
        side: longer side of what is drawn.
    """
    whole = None
    if args.refine or args.masks or args.save_maps or style.name == "mask":
        whole = heatmaps.at_picture_size(heatmaps.as_map(heat), picture.pixels, geometry)
    if whole is not None and args.refine:
        whole = refine(args.refine, whole, picture.pixels)
        heat, geometry = torch.from_numpy(whole), Geometry(0)
    entry: dict = {"max": float(heat.max())}
    if whole is not None and args.save_maps:
        name = method if len(args.method) > 1 else ""
        entry["file"] = heatmaps.save_map(args.save_maps, picture.path, whole, name)
    stretch = method != EVIDENCE

    def at(size: tuple[int, int]) -> torch.Tensor:
        """The map; one as fine as the picture, which would flicker without averaging, scaled to a height and width."""
        if not args.refine:
            return heat
        return torch.from_numpy(cv2.resize(heat.numpy(), size[::-1], interpolation=cv2.INTER_AREA))

    small = None
    if args.report:
        size = overlays.thumbnail(picture.pixels, report_page.MAP_SIDE).shape[:2]
        small = heatmaps.small_map(at(size), size, geometry, stretch)
    if whole is not None and style.name == "mask":
        found = regions.measure(whole, threshold)
        entry |= {"threshold": threshold, **found.as_row()}
        return View(
            entry,
            found.says(short=len(args.method) > 1),
            lambda: overlays.draw_regions(picture.pixels, found, style.colormap, side),
            whole,
            small,
        )

    def draw() -> np.ndarray:
        shown = overlays.thumbnail(picture.pixels, side)
        return heatmaps.drawn(at(shown.shape[:2]), shown, geometry, style, stretch)

    return View(entry, "", draw, whole, small)


class Shown(NamedTuple):
    """All pictures, one entry each.

    Attributes:
        tiles: for the figure.
        drawings: of each map, for the figure.
        captions: of each map, what was found.
        rows: for the JSON file.
        wholes: by method, the maps at the pictures' sizes, where there are masks to score them against.
        smalls: by method, the maps of the report, where there is one.
    """

    tiles: list[Tile]
    drawings: list[list[np.ndarray]]
    captions: list[list[str]]
    rows: list[dict]
    wholes: dict[str, list[np.ndarray]]
    smalls: dict[str, list[np.ndarray]]


def show(
    args: argparse.Namespace, network: LoadedModel, style: Style, true: str | None, pictures: list[DecodedImage],
    probabilities: np.ndarray, targets: list[int], heats: dict[str, list[torch.Tensor]],
    thresholds: dict[str, list[float]],
) -> Shown:  # fmt: skip
    """Look at all maps of all pictures.

    Args:
        true: class of the pictures, where it is known.
        probabilities: (N, classes).
        targets: class index that each map explains.
        heats: maps by method.
        thresholds: by method, one for each picture: where ``--style mask`` cuts.
    """
    shown = Shown([], [], [], [], {method: [] for method in heats}, {method: [] for method in heats})
    for i, (item, chances, index) in enumerate(zip(pictures, probabilities, targets, strict=True)):
        views = {
            method: view(args, style, item, method, heat[i], network.card.geometry, thresholds[method][i])
            for method, heat in heats.items()
        }
        in_figure = i < SCORED_ROWS or not args.masks
        shown.drawings.append([each.draw() for each in views.values()] if in_figure else [])
        shown.captions.append([each.says for each in views.values()])
        explained = text.shorten(network.card.classes[index], 24)
        peaks = any(each.entry["max"] for each in views.values())
        says = f"target: {explained}" if peaks else f"no evidence for {explained}"
        picture = overlays.thumbnail(item.pixels)
        if len(args.method) == 1 and not args.masks:
            says = shown.captions[-1][0] or says
            picture = (
                overlays.side_by_side(picture, shown.drawings[-1][0]) if style.side_by_side else shown.drawings[-1][0]
            )
        best = classifier.by_class(network, chances, args.top_k)
        shown.tiles.append(Tile(picture, item.path.name, best, true, says))
        shown.rows.append({
            "file": str(item.path), "true": true, "predicted": shown.tiles[-1].predicted, "probabilities": best,
            "target": network.card.classes[index], "maps": {method: each.entry for method, each in views.items()},
        })  # fmt: skip
        for method, each in views.items():
            if args.masks and each.whole is not None:
                shown.wholes[method].append(each.whole)
            if each.small is not None:
                shown.smalls[method].append(each.small)
    return shown


def draw(
    args: argparse.Namespace,
    path: Path,
    title: str,
    style: Style,
    shown: Shown,
    masks: list[np.ndarray],
    lines: int,
    model: str = "",
) -> None:
    """The figure that the flags ask for: one method's grid, several side by side, or maps beside masks.

    Args:
        masks: of the pictures, where there are any.
        lines: how many classes a grid names where ``--top-k`` does not say.
    """
    methods = list(shown.wholes)
    if methods == [EVIDENCE] and style.unit:
        style = style._replace(unit=f"evidence: {overlays.PROBABILITY}")
    if masks:
        tiles = [
            tile._replace(image=overlays.draw_mask_outline(tile.image, mask))
            for tile, mask in zip(shown.tiles, masks, strict=True)
        ]
        captions = mask_scores.captions(masks, shown.wholes)
        rows = [ComparisonRow(*row) for row in zip(tiles, shown.drawings, captions, strict=True)]
        figures.comparison(path, title, ["prediction, mask", *methods], rows[:SCORED_ROWS], style, model)
    elif len(args.method) > 1:
        captions = shown.captions if style.name == "mask" else [[]] * len(shown.tiles)
        rows = [ComparisonRow(*row) for row in zip(shown.tiles, shown.drawings, captions, strict=True)]
        figures.comparison(path, title, ["prediction", *methods], rows, style, model)
    else:
        style, title = style._replace(unit="") if NAMED[methods[0]].picture else style, f"{methods[0]} at {title}"
        figures.heatmap_grid(path, title, shown.tiles, style, args.top_k or lines, model)


def report(
    args: argparse.Namespace, document: dict, style: Style, shown: Shown, pictures: list[DecodedImage],
    masks: list[np.ndarray],
) -> None:  # fmt: skip
    """Write the page of ``--report`` and name it in the document; with masks, each map's average precision too."""
    if masks:
        mask_scores.add_average_precision(shown.rows, masks, shown.wholes)
    maps = report_page.Heatmaps(shown.smalls, style.colormap, frozenset({EVIDENCE}))
    report_page.write(args.report, document, [item.pixels for item in pictures], maps, masks)
    document["report"] = str(args.report)


def anatomy(
    args: argparse.Namespace, path: Path, network: LoadedModel, style: Style, layer: TargetLayer, selection: Selection,
    picture: DecodedImage, pixels: torch.Tensor, probabilities: np.ndarray, target: int,
) -> dict:  # fmt: skip
    """Draw how Grad-CAM comes about on one picture.

    Args:
        pixels: (1, 3, size, size) uint8.
        probabilities: (classes,).
        target: class index.

    Returns:
        The document for the JSON file.
    """
    steps = heatmaps.anatomy(network, layer, pixels, target)
    chances = classifier.by_class(network, probabilities, args.top_k)
    small, true = overlays.thumbnail(picture.pixels), next(iter(selection.files)) or None
    tile, explained = Tile(small, picture.path.name, chances, true), network.card.classes[target]
    seen = heatmaps.unframed(steps.heat, picture.pixels.shape, network.card.geometry)
    over = heatmaps.drawn(seen, small, network.card.geometry, style)
    title = f"Grad-CAM at {layer.name}, {tile.name}: evidence for {explained}"
    activations, gradients, weights, weighted_sum = (part.numpy() for part in steps[:4])
    computed = AnatomySteps(explained, activations, gradients, weights, weighted_sum, over)
    figures.anatomy(path, title, tile, computed, figures.model_label(network.card.arch, network.path))
    row = {
        "file": str(picture.path), "true": true, "predicted": tile.predicted, "probabilities": chances,
        "target": explained, "weights": [round(float(weight), 8) for weight in steps.weights],
    }  # fmt: skip
    return {**classifier.manifest(network, args, selection, [row]), "layer": layer.name, "picture": str(path)}


def beside(picture: Path, what: str) -> Path:
    """The name of a table beside a picture."""
    return picture.with_name(f"{picture.stem}_{what}.csv")


def conclude(document: dict, args: argparse.Namespace, tables: Sequence[str] = ()) -> int:
    """Write the JSON file beside the picture, and the table of what was found; print tables; say what was written."""
    picture = Path(document["picture"])
    if args.style == "mask":
        document["found_table"] = files.write_csv(beside(picture, "found"), regions.table(document["pictures"]))
    files.write_json(picture.with_suffix(".json"), document)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    written = [name for key, name in document.items() if key.endswith(("table", "report"))]
    also = f", and maps in {args.save_maps}" if args.save_maps and not args.anatomy else ""
    for table in tables:
        print(table)
    console.say(f"wrote {', '.join([str(picture), str(picture.with_suffix('.json')), *written])}{also}")
    return 0
