"""``inference.py --all`` and ``xai.py --all``: every picture of a selection, as a table.

A table ends in .csv or .jsonl and has a .json beside it, which says how it was made. See :mod:`crackcam.streaming` for
how pictures stream, and what a kill leaves.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crackcam import classifier, files
from crackcam.batch import streaming
from crackcam.batch.streaming import Item, Row, Run
from crackcam.classifier import LoadedModel, Selection, by_class
from crackcam.cli.console import say
from crackcam.data import images
from crackcam.distributed import rank
from crackcam.errors import UserError
from crackcam.explain import heatmaps
from crackcam.files import write_atomically, write_json
from crackcam.models.target_layers import TargetLayer
from crackcam.text import counted

if TYPE_CHECKING:
    from crackcam.render.overlays import Style

logger = logging.getLogger(__name__)


SHARD = 1000  # pictures in a folder of overlays or maps: file managers and network drives choke on more
STEM = 50  # characters of a picture's name in the names of its overlay and map: file systems take 255 bytes
OVERLAY_SIDE = 1024  # pixels of the longer side; smaller pictures keep their size
QUALITY = 90  # of JPEG
NAMED_ERRORS = 10  # more unreadable files are counted, and stand in the table
DECIMALS = 6  # of probabilities


def predict(args: argparse.Namespace, network: LoadedModel, selection: Selection) -> dict | None:
    """Score every picture into ``args.output``.

    Returns:
        The document of the .json file beside it; None in all processes but the first.

    Raises:
        UserError: nothing can be read; or see :func:`crackcam.streaming.stream`.
    """
    classes = network.card.classes
    run = Run(args.output, _listed(selection), args.batch_size, _settings(network), "predicting")
    if before := _complete(args, run):
        return before

    def work(items: list[Item]) -> list[Callable[[], Row]]:
        pixels = classifier.stacked([item.prepared for item in items])
        return [partial(finish, row) for row in classifier.probabilities(network, pixels)]

    def finish(row: torch.Tensor) -> Row:
        chances = row.tolist()
        return {
            "predicted": classes[chances.index(max(chances))],
            "probabilities": [round(chance, DECIMALS) for chance in chances],
        }

    def by_name(row: Row) -> dict[str, float]:
        return by_class(network, np.array(row["probabilities"]), args.top_k)

    def cells(row: Row) -> list:
        chances = row.get("probabilities")
        shares = [f"{chance:.{DECIMALS}f}" for chance in chances] if chances else [""] * len(classes)
        return [row["file"], row["true"], row.get("predicted"), *shares, row.get("error")]

    def line(row: Row) -> Row:
        return {**row, "probabilities": by_name(row)} if "probabilities" in row else row

    header = ["file", "true", "predicted", *(f"p_{name}" for name in classes), "error"]
    streaming.stream(run, network.card.geometry.apply, work, args.resume)
    if rank():
        return None
    counts = _write_table(run, header, cells, line)
    if args.report:
        from crackcam.render import report

        rows = [line(row) for row in streaming.rows(run)]
        named, broken = ([row for row in rows if ("error" in row) == bad] for bad in (False, True))
        report.write(args.report, {**classifier.manifest(network, args, selection, named), "unreadable": broken})
        counts["report"] = str(args.report)
    return _written(args, network, selection, run, counts)


def explain(
    args: argparse.Namespace, network: LoadedModel, finer: LoadedModel, layers: dict[str, list[TargetLayer]], style: Style,
    selection: Selection, wanted: int | None,
) -> dict | None:  # fmt: skip
    """Draw the map of every picture, in folders of :data:`SHARD` beside ``args.output``, the table of them.

    Args:
        network: what predicts.
        finer: what is explained: the same, or dilated.
        layers: by method; of one.
        wanted: class to explain; None: the one predicted.

    Returns:
        See :func:`predict`.

    Raises:
        UserError: as there; or a flag that needs all pictures at once, and a threshold that nobody knows.
    """
    from PIL import Image

    from crackcam.explain import thresholds
    from crackcam.render import showing
    from crackcam.render.overlays import SHOWN_SIDE, side_by_side, thumbnail

    method, card = args.method[0], network.card
    overlays = args.output.with_suffix("")
    keeps = ("layer", "stride", "scales", "fuse", "aug_smooth", "eigen_smooth", "style", "threshold", "refine",
             "colormap", "top_k")  # fmt: skip
    settings = {"method": method, **{name.replace("_", "-"): getattr(args, name) for name in keeps}}
    settings["save-maps"] = args.save_maps and str(args.save_maps)
    settings["target"] = "predicted" if wanted is None else card.classes[wanted]
    run = Run(args.output, _listed(selection), args.batch_size, {**_settings(network), **settings}, "explaining")
    if before := _complete(args, run):
        return before
    whole = args.refine or args.save_maps or args.scales or style.name == "mask"  # needs pictures as they are
    if style.name == "mask":
        explained = range(len(card.classes)) if wanted is None else [wanted]
        if any(map(math.isnan, thresholds.known_thresholds(args, card, method, list(explained)))):
            raise UserError(f"no threshold is known for these maps of {method}: --style mask --all needs --threshold")

    def prepare(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return card.geometry.apply(picture), picture if whole else thumbnail(picture, OVERLAY_SIDE)

    def work(items: list[Item]) -> list[Callable[[], Row]]:
        pixels = classifier.stacked([item.prepared[0] for item in items])
        pictures = [item.prepared[1] for item in items]
        chances, targets, heats = heatmaps.explained(
            args, network, finer, method, layers[method], pixels, pictures, wanted
        )
        return [partial(finish, *of_one) for of_one in zip(items, chances, targets, heats, strict=True)]

    def finish(item: Item, chances: np.ndarray, target: int, heat: torch.Tensor) -> Row:
        shard, name = f"{item.place // SHARD:05d}", f"{item.place:07d}_{item.path.stem[:STEM]}"
        maps = args.save_maps and args.save_maps / shard
        there = argparse.Namespace(**{**vars(args), "save_maps": maps})
        picture = images.DecodedImage(Path(f"{name}.jpg"), item.prepared[1])
        # what was found is outlined in fine lines: small pictures are enlarged for that
        side = min(OVERLAY_SIDE, max(SHOWN_SIDE, *picture.pixels.shape[:2]))
        (limit,) = thresholds.known_thresholds(args, card, method, [target])
        seen = showing.view(there, style, picture, method, heat.cpu(), card.geometry, limit, side)
        drawn = seen.draw()
        if style.side_by_side:
            drawn = side_by_side(thumbnail(picture.pixels, side), drawn)
        overlay = overlays / shard / f"{name}.jpg"
        write_atomically(overlay, lambda temporary: Image.fromarray(drawn).save(temporary, "JPEG", quality=QUALITY))
        best = by_class(network, chances, args.top_k)
        entry = {"map" if name == "file" else name: value for name, value in seen.entry.items()}
        return {
            "predicted": next(iter(best)), "probabilities": {n: round(p, DECIMALS) for n, p in best.items()},
            "target": card.classes[target], "overlay": str(overlay), **entry,
        }  # fmt: skip

    measures = ["threshold", "share", "length", "width", "boxes"] if style.name == "mask" else []
    header = ["file", "true", "predicted", "probability", "target", "max", "overlay"]
    header += [*(["map"] if args.save_maps else []), *measures, "error"]

    def cells(row: Row) -> list:
        plain = {**row, "probability": next(iter(row.get("probabilities", {}).values()), None)}
        if "boxes" in row:
            plain["boxes"] = len(row["boxes"])
        return [plain.get(name) for name in header]

    streaming.stream(run, prepare, work, args.resume, [overlays, *([args.save_maps] if args.save_maps else [])])
    if rank():
        return None
    counts = _write_table(run, header, cells, dict)
    where = [layer.name for layer in layers[method]]
    return _written(args, network, selection, run, counts, **settings, layers=where, overlays=str(overlays))


def _listed(selection: Selection) -> list[tuple[str, Path]]:
    return [(name, path) for name, found in selection.files.items() for path in found]


def _settings(network: LoadedModel) -> dict[str, Any]:
    """What predictions depend on, beside the files and their batches."""
    return {
        "weights": files.file_hash(network.path) if network.path else _hash_of(network),
        "precision": "bf16" if network.machine.dtype == torch.bfloat16 else "fp32",
        "device": network.machine.device.type,
    }


def _hash_of(network: LoadedModel) -> str:
    """Of the tensors: weights asked for at random are others in each run."""
    found = hashlib.sha256()
    for name, tensor in network.model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _complete(args: argparse.Namespace, run: Run) -> dict | None:
    """The document of a run that ``--resume`` finds done."""
    beside = run.table.with_suffix(".json")
    if not args.resume or (run.part / "run.json").exists() or not (run.table.exists() and beside.exists()):
        return None
    before = streaming.read_document(beside)
    streaming.check_same(before.get("run", {}), run)
    if args.report and before.get("report") != str(args.report):
        raise UserError(f"{run.table} is complete, without {args.report}: leave --resume or --report out")
    logger.info(f"nothing to resume: {run.table} is complete")
    return before


def _write_table(
    run: Run, header: list[str], cells: Callable[[Row], list], line: Callable[[Row], Row]
) -> dict[str, Any]:
    """The table, of the journals; returns what its document counts.

    Args:
        header: of the .csv.
        cells: the values below it, of a row.
        line: what a .jsonl says, of a row.

    Raises:
        UserError: nothing can be read; the journals are gone then, and there is no table.
    """
    counts: Counter[str] = Counter()

    def counted_rows() -> Iterator[Row]:
        for row in streaming.rows(run):
            counts["pictures"] += "error" not in row
            counts["right"] += row["true"] is not None and row.get("predicted") == row["true"]
            counts["unreadable"] += "error" in row
            if "error" in row and counts["unreadable"] <= NAMED_ERRORS:
                logger.warning(f"{row['file']}: {row['error']}")
            yield row

    def write(temporary: Path) -> None:
        # names of files need not be text
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            if run.table.suffix.lower() == ".csv":
                csv.writer(file).writerows(chain([header], map(cells, counted_rows())))
            else:
                file.writelines(json.dumps(line(row)) + "\n" for row in counted_rows())
        if not counts["pictures"]:
            raise UserError(f"none of {counted(counts['unreadable'], 'file')} can be read as a picture")

    try:
        write_atomically(run.table, write)
    except UserError:
        streaming.clear(run)
        raise
    if counts["unreadable"] > NAMED_ERRORS:
        logger.warning(f"{counted(counts['unreadable'], 'file')} could not be read, see {run.table}")
    accuracy = counts["right"] / counts["pictures"] if run.files[0][0] else None
    return {"pictures": counts["pictures"], "unreadable": counts["unreadable"], "accuracy": accuracy}


def _written(
    args: argparse.Namespace, network: LoadedModel, selection: Selection, run: Run, counts: dict, **others: Any
) -> dict:
    """Write the document beside the table; after that nothing needs the journals."""
    document = {
        **classifier.manifest(network, args, selection, []), **counts, **others,
        "table": str(run.table), "run": run.identity,
    }  # fmt: skip
    write_json(run.table.with_suffix(".json"), document)
    streaming.clear(run)
    return document


def conclude(args: argparse.Namespace, document: dict | None) -> int:
    """Say, in the first process, what was scored and written."""
    if document is None or rank():
        return 0
    if args.json:
        names = ("type", "split", "pictures", "unreadable", "accuracy", "table")
        print(json.dumps({name: document[name] for name in names}, indent=2))
        return 0
    scored, unreadable, accuracy = (document[name] for name in ("pictures", "unreadable", "accuracy"))
    said = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    lost = f", {counted(unreadable, 'file')} not readable" if unreadable else ""
    print(f"{counted(scored, 'picture')}{said}{lost}")
    also = [document[name] for name in ("overlays", "report", "save-maps") if document.get(name)]
    say("wrote " + ", ".join([document["table"], *also]))
    return 0
