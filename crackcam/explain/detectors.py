"""Detectors: boxes around what is in a picture, and heat maps of it.

Which task a network has follows from its architecture. The detectors of torchvision are used as they are, with the
weights that COCO gave them or with a user's own file. A picture goes in whole, at its own size; the detector brings it
to the size that it was made for.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import nn

from crackcam import runtime
from crackcam.classifier import LoadedModel, Selection, class_index, manifest, read_selection, select
from crackcam.config import OUTPUTS
from crackcam.data.images import DecodedImage
from crackcam.errors import UserError
from crackcam.explain import heatmaps, thresholds
from crackcam.explain.methods import BEST, EVIDENCE, METHODS, method_class
from crackcam.files import check_writable
from crackcam.models import checkpoint, checks, pretrained, registry
from crackcam.models.checkpoint import ModelCard
from crackcam.preprocessing import Geometry
from crackcam.render import figures, overlays, showing
from crackcam.render.figures import Box, ComparisonRow, Tile
from crackcam.render.overlays import Style
from crackcam.runtime import choose_device, choose_precision, describe_machine
from crackcam.text import counted, percent
from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import pyramid_reshape_transform

logger = logging.getLogger(__name__)

LAYER = "backbone"  # of every detector in torchvision: a pyramid of grids
STRONGEST = 0.01  # share of its channels that methods with one run a channel try
COPIES = 4  # pictures at a time in such methods: a detector enlarges them


class Detection(NamedTuple):
    """One box: class index and name, score in [0, 1], and (left, top, right, bottom) in pixels of the picture."""

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]


def is_detector(arch: str | None) -> bool:
    """Whether torchvision has a detector of that name."""
    return arch in torchvision.models.list_models(module=torchvision.models.detection)


def open_detector(args: argparse.Namespace) -> LoadedModel:
    """The detector of ``--arch``: with COCO's weights, with those of ``--weights``, or with random ones; says which.

    ``--score-threshold`` becomes the detector's own, so that it drops weaker boxes itself.

    Raises:
        UserError: its weights cannot be had, or the file does not fit.
    """
    device = choose_device(args.device)
    dtype, reason = choose_precision(args.precision, device)
    if args.precision == "auto":
        dtype, reason = torch.float32, "half precision would blur the boxes"
    weights = registry.weights_entry(args.arch)
    classes = ["background", *args.classes] if args.classes else list(weights.meta["categories"])
    source = str(args.weights or weights)
    if args.weights:
        state = checkpoint.read_tensors(args.weights)
    elif args.pretrained == "none":
        state, source = None, "random weights: asked for"
    elif args.classes:
        raise UserError("--classes says what a file of your own knows: name it with --weights")
    else:
        try:
            state = pretrained.download_weights(weights)
        except pretrained.WeightsUnavailableError as why:
            raise UserError(f"no COCO weights for {args.arch}: {why}; or name a file with --weights") from None
    torch.manual_seed(args.seed)  # of random weights
    model = torchvision.models.get_model(args.arch, weights=None, weights_backbone=None, num_classes=len(classes))
    if state is not None:
        classes_said = counted(len(classes) - 1, "class", "classes")
        checkpoint.fill(model, state, f"{source} does not fit {args.arch} with {classes_said}")
    set_score_threshold(model, args.score_threshold)
    known = set(classes) - {"__background__", "background", "N/A"}
    logger.info(f"network: {args.arch}, {counted(len(known), 'class', 'classes')}, from {source}")
    logger.info(f"machine: {describe_machine(device, dtype, reason)}")
    card = ModelCard(args.arch, classes, image_size=0, pretrained=source)
    return LoadedModel(checks.place(model.eval(), device), card, runtime.Runtime(device, dtype), args.weights)


def set_score_threshold(model: nn.Module, threshold: float) -> None:
    """Scores that a box must exceed for the detector to return it: ``box_score_thresh`` or ``score_thresh``."""
    holder: Any = getattr(model, "roi_heads", model)
    holder.score_thresh = threshold


def to_input(network: LoadedModel, picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in 0..1 on the device; detectors normalise by themselves."""
    return torch.from_numpy(picture).to(network.machine.device).permute(2, 0, 1)[None].float() / 255


def detect(network: LoadedModel, picture: np.ndarray) -> list[Detection]:
    """What the detector finds in a picture (H, W, 3) uint8, best first."""
    with torch.inference_mode(), network.machine.autocast():
        (found,) = network.model(to_input(network, picture))
    labels, scores, boxes = (found[key].cpu().tolist() for key in ("labels", "scores", "boxes"))
    return [
        Detection(label, network.card.classes[label], score, tuple(box))
        for label, score, box in zip(labels, scores, boxes, strict=True)
    ]


def find(
    args: argparse.Namespace, network: LoadedModel, selection: Selection, target: str | None = None
) -> list[tuple[DecodedImage, list[Detection]]]:
    """Read the pictures and detect what is in them, with ``target`` boxes of that class only."""
    pictures = read_selection(args, selection)
    index = None if target in (None, "predicted") else class_index(network.card, str(target))
    found = [(picture, detect(network, picture.pixels)) for picture in pictures]
    return [(picture, [d for d in boxes if index in (None, d.label)]) for picture, boxes in found]


def tile(picture: DecodedImage, found: list[Detection], shown: np.ndarray, says: str = "") -> Tile:
    """A picture with its boxes, for a figure.

    Args:
        shown: the picture as it is drawn, in whatever size.
        says: written below it before the names of what was detected.
    """
    scale = shown.shape[0] / picture.pixels.shape[0]
    boxes = [Box(tuple(scale * edge for edge in d.box), f"{d.name} {percent(d.score)}", d.label) for d in found]
    count = Counter(d.name for d in found)
    note = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in count.items())
    best = {d.name: d.score for d in reversed(found)}
    below = f"{says}: {note}" if says else note or "nothing found"
    return Tile(shown, picture.path.name, best, None, below, boxes)


def as_row(picture: DecodedImage, found: list[Detection], image_id: int) -> dict:
    """A picture and its boxes as JSON has them."""
    boxes = [{**d._asdict(), "score": round(d.score, 6), "box": [round(edge, 2) for edge in d.box]} for d in found]
    return {"file": str(picture.path), "image_id": image_id, "detections": boxes}


def as_coco(rows: list[dict]) -> list[dict]:
    """Rows of :func:`as_row` in COCO's format of results: one entry a box, of all pictures."""
    return [
        {
            "image_id": row["image_id"],
            "category_id": box["label"],
            "bbox": [round(float(value), 2) for value in left_top_width_height(box["box"])],
            "score": box["score"],
        }
        for row in rows
        for box in row["detections"]
    ]


def image_ids(pictures: list[DecodedImage]) -> dict[Path, int]:
    """The numbers that the files are named by, as COCO's are, if all are and they differ; else places in the list."""
    paths = [item.path for item in pictures]
    numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
    named = len(set(numbers)) == len(paths)
    return dict(zip(paths, numbers if named else range(len(paths)), strict=True))


def left_top_width_height(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """COCO's form of (left, top, right, bottom)."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def explain_boxes(
    network: LoadedModel, method: str, layers: dict[str, bool], picture: np.ndarray, explained: list[Detection],
    eigen_smooth: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What speaks for these boxes, all together.

    Args:
        method: a name in :data:`crackcam.methods.METHODS`.
        layers: from :func:`find_layers`.
        picture: (H, W, 3) uint8.
        explained: boxes; methods that ask for no class do without.

    Returns:
        (H, W) float32 on the device, >= 0, in the method's own unit.

    Raises:
        UserError: the method cannot explain this network; the message says why.
    """
    if METHODS[method].picture:
        raise UserError(f"{method} draws how a classifier's logit changes: a detector has none")
    settings: dict[str, Any] = {}
    if method == "ablationcam":
        rows = AblationLayerFasterRCNN() if any(layers.values()) else None
        settings = {"ablation_layer": rows, "ratio_channels_to_ablate": STRONGEST}
    elif method == "scorecam":
        settings = {"ratio_channels_to_score": STRONGEST}
    with heatmaps.of_engine(method):
        explain = method_class(method)(network.model, list(layers), pyramid_reshape_transform, **settings)
        explain.batch_size = COPIES
        target = FasterRCNNBoxScoreTarget([d.label for d in explained], [d.box for d in explained])
        with network.machine.autocast():
            return explain.maps(to_input(network, picture), [target], eigen_smooth=eigen_smooth, normalize=False)[0]


def find_layers(network: LoadedModel, names: list[str] | None) -> dict[str, bool]:
    """The layers to explain, the backbone unless others are named; and whether each puts out a pyramid of grids.

    Raises:
        UserError: a name that is no layer with a grid (all such layers are listed).
    """
    pyramids: dict[str, bool] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            first = next(iter(output.values()), None) if isinstance(output, dict) else output
            if isinstance(first, torch.Tensor) and first.ndim == 4 and min(first.shape[2:]) > 1:
                pyramids[name] = isinstance(output, dict)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in network.model.named_modules() if name]
    try:
        with torch.inference_mode():
            network.model(torch.zeros(1, 3, 320, 320, device=network.machine.device))
    finally:
        for handle in handles:
            handle.remove()
    chosen = names or [LAYER]
    for name in chosen:
        if name not in pyramids:
            raise UserError(f"no layer {name!r} with a grid; there are: {', '.join(pyramids)}")
    return {name: pyramids[name] for name in chosen}


def explain(args: argparse.Namespace, style: Style) -> dict:
    """What xai.py does with a detector: draws what its boxes rest on, all of a picture's together, or of one class.

    Returns:
        The document that says what was drawn, for the JSON file.

    Raises:
        UserError: flags that are for classifiers, or no box to explain.
    """
    if args.method == [BEST]:
        args.method = ["gradcam"]
    if EVIDENCE in args.method:
        raise UserError(f"--method {EVIDENCE} shows what --head multiscale decides by, and {args.arch} is a detector")
    for flag in ("anatomy", "verify", "list_layers", "aug_smooth", "masks", "metrics", "stride", "scales", "fuse",
                 "report", "all"):  # fmt: skip
        if getattr(args, flag):
            raise UserError(f"--{flag.replace('_', '-')} is for classifiers; {args.arch} is a detector")
    network = open_detector(args)
    layers = find_layers(network, args.layer)
    selection = select(args, network.card)
    several = len(args.method) > 1
    grid = args.output or OUTPUTS / f"xai_{selection.name}_{'compared' if several else args.method[0]}.png"
    check_writable(grid)
    named = args.target if args.target not in (None, "predicted") else "box"
    everything = find(args, network, selection, args.target)
    ids = image_ids([item for item, _ in everything])
    pictures = []
    for item, boxes in everything:
        if boxes:
            pictures.append((item, boxes))
        else:
            logger.warning(f"{item.path}: no {named} scores above {args.score_threshold:g}")
    if not pictures:
        raise UserError(f"no {named} to explain: lower --score-threshold, which is {args.score_threshold:g}")
    if args.save_maps:
        heatmaps.check_names([item.path for item, _ in pictures])
    side = round(figures.DPI * figures.detection_side(len(pictures)))
    heats: dict[str, list[torch.Tensor]] = {method: [] for method in args.method}
    for item, boxes in pictures:
        logger.info(f"{item.path}: explaining {counted(len(boxes), 'box', 'boxes')} by {', '.join(args.method)}")
        for method, made in heats.items():
            made.append(explain_boxes(network, method, layers, item.pixels, boxes, args.eigen_smooth))
    cuts = {method: [math.nan if args.threshold is None else args.threshold] * len(pictures) for method in heats}
    if style.name == "mask":
        cuts = {method: thresholds.complete_thresholds(cuts[method], method, made) for method, made in heats.items()}
    tiles, drawings, captions, rows = [], [], [], []
    for i, (item, boxes) in enumerate(pictures):
        small = overlays.thumbnail(item.pixels, side)
        views = {
            method: showing.view(args, style, item, method, made[i], Geometry(0), cuts[method][i], max(small.shape[:2]))
            for method, made in heats.items()
        }
        drawings.append([view.draw() for view in views.values()])
        first = drawings[-1][0]
        shown = small if several else overlays.side_by_side(small, first) if style.side_by_side else first
        captions.append([view.says for view in views.values()])
        tiles.append(tile(item, boxes, shown, ", ".join(captions[-1][:1]) if not several else ""))
        entries = {method: view.entry for method, view in views.items()}
        rows.append({**as_row(item, boxes, ids[item.path]), "maps": entries})
    title = f"{', '.join(layers)}: evidence for {args.target or 'the boxes'}"
    by_model = figures.model_label(network.card.arch)
    if several:
        said = captions if style.name == "mask" else [[]] * len(tiles)
        compared = [ComparisonRow(*row) for row in zip(tiles, drawings, said, strict=True)]
        figures.comparison(grid, title, ["detections", *args.method], compared, style, by_model)
    else:
        figures.detection_grid(grid, f"{args.method[0]} at {title}", tiles, style, by_model)
    return {
        **manifest(network, args, selection, rows), "methods": {name: list(layers) for name in args.method},
        "target": args.target, "score_threshold": args.score_threshold, "eigen_smooth": args.eigen_smooth,
        "refine": args.refine, "picture": str(grid),
    }  # fmt: skip
