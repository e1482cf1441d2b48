"""Predict pictures of a class folder, or any pictures, and draw them with their probabilities.

    python inference.py                                    nine pictures of the default class
    python inference.py --type Negative --seed 7           nine others
    python inference.py --image bridge.jpg photos/         pictures of your own
    python inference.py --all                              every picture of the test split, as a table
    python inference.py --image street.jpg --arch fasterrcnn_resnet50_fpn --score-threshold 0.9     boxes of a detector

Everything about the network comes from the checkpoint that train.py wrote. Writes outputs/inference_<type>.png with a
.json beside it; with --all, outputs/predictions_<type>.csv: file, true, predicted, one probability a class, and what is
wrong with files that cannot be read. A detector's boxes also go into outputs/inference_images_coco.json, as COCO has
them.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crackcam import console
from crackcam.console import OUTPUTS, UserError, counted, note

if TYPE_CHECKING:
    from crackcam.predicting import Network, Selection


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    console.add_picture_flags(parser)
    parser.add_argument(
        "--all", action="store_true", help="score every picture (of --type, else of all classes) into a CSV"
    )
    console.add_machine_flags(parser, precision="auto")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the .png, or with --all the .csv (default: in outputs/)"
    )
    console.add_report_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    suffix = ".csv" if args.all else ".png"
    if args.output and args.output.suffix.lower() != suffix:
        raise UserError(f"--output {args.output} must end in {suffix}")

    from crackcam import detecting, predicting

    if detecting.is_detector(args.arch):
        return draw_boxes(args)
    network = predicting.open_network(args)
    selection = predicting.select(args, network.card, every_class=args.all)
    kind = "predictions" if args.all else "inference"
    args.output = args.output or OUTPUTS / f"{kind}_{selection.name}{suffix}"
    console.check_writable(args.output, args.report)
    return score_all(args, network, selection) if args.all else draw_grid(args, network, selection)


def draw_grid(args: argparse.Namespace, network: Network, selection: Selection) -> int:
    """A few pictures as a grid."""
    from crackcam import figures, predicting, reporting

    pictures = predicting.read_selection(args, selection)
    true = next(iter(selection.files)) or None
    pixels = predicting.to_pixels(network, [item.pixels for item in pictures])
    probabilities = [
        predicting.by_class(network, row, args.top_k) for row in predicting.predict(network, pixels, args.batch_size)
    ]
    tiles = [
        figures.Tile(figures.thumbnail(item.pixels), item.path.name, chances, true)
        for item, chances in zip(pictures, probabilities, strict=True)
    ]
    wrong = sum(tile.wrong for tile in tiles)
    title = f"{network.card.arch}, {true}: {len(tiles) - wrong} of {len(tiles)} right" if true else network.card.arch
    figures.prediction_grid(args.output, title, tiles, args.top_k)
    rows = [
        {"file": str(item.path), "true": true, "predicted": tile.predicted, "probabilities": tile.probabilities}
        for item, tile in zip(pictures, tiles, strict=True)
    ]
    document = {**predicting.manifest(network, args, selection, rows), "picture": str(args.output)}
    if args.report:
        reporting.write(args.report, document, [item.pixels for item in pictures])
        document["report"] = str(args.report)
    console.write_json(args.output.with_suffix(".json"), document)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    for item, tile in zip(pictures, tiles, strict=True):
        mark = "   <- wrong" if tile.wrong else ""
        print(f"{item.path}  {tile.predicted} {figures.chance(tile.probabilities[tile.predicted])}{mark}")
    print(f"{len(tiles) - wrong} of {counted(len(tiles), 'picture')} right" if true else counted(len(tiles), "picture"))
    print(f"wrote {args.output}, {args.output.with_suffix('.json')}" + (f", {args.report}" if args.report else ""))
    return 0


def draw_boxes(args: argparse.Namespace) -> int:
    """What a detector finds in a few pictures."""
    from crackcam import detecting, figures, predicting

    if args.all:
        raise UserError("--all scores classes; the boxes of many pictures: --image FOLDER --num 1000")
    if args.report:
        raise UserError(f"--report is for classifiers; {args.arch} is a detector")
    network = detecting.open_detector(args)
    selection = predicting.select(args, network.card)
    picture = args.output or OUTPUTS / f"inference_{selection.name}.png"
    coco = picture.with_name(f"{picture.stem}_coco.json")
    console.check_writable(picture)
    found = detecting.find(args, network, selection)
    side = round(figures.DPI * figures.detection_side(len(found)))
    tiles = [detecting.tile(item, boxes, figures.thumbnail(item.pixels, side)) for item, boxes in found]
    figures.detection_grid(picture, f"{network.card.arch}: boxes that score above {args.score_threshold:g}", tiles)
    ids = detecting.image_ids([item for item, _ in found])
    rows = [detecting.as_row(item, boxes, ids[item.path]) for item, boxes in found]
    document = {**predicting.manifest(network, args, selection, rows), "score_threshold": args.score_threshold}
    document |= {"picture": str(picture), "coco": str(coco)}
    console.write_json(picture.with_suffix(".json"), document)
    console.write_json(coco, detecting.as_coco(rows))
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    for item, boxes in found:
        best = ", ".join(f"{d.name} {figures.percent(d.score)}" for d in boxes[:5]) or "nothing found"
        print(f"{item.path}  {best}{f', and {len(boxes) - 5} more' if len(boxes) > 5 else ''}")
    print(f"wrote {picture}, {picture.with_suffix('.json')}, {coco}")
    return 0


def score_all(args: argparse.Namespace, network: Network, selection: Selection) -> int:
    """Every picture into a CSV, read while the network computes; memory does not grow with their number."""
    from itertools import islice

    from tqdm import tqdm

    from crackcam import images, predicting, reporting

    classes = network.card.classes
    queue = [(name, path) for name, found in selection.files.items() for path in found]
    right = unreadable = 0
    rows: list[dict] = []  # for the report; else memory does not grow
    broken: list[dict] = []

    def write(temporary: Path) -> None:
        nonlocal right, unreadable
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "true", "predicted", *(f"p_{name}" for name in classes), "error"])
            reading = images.read_all([path for _, path in queue], network.card.geometry.apply)
            items = iter(zip(tqdm(reading, "predicting", len(queue), disable=None, unit="picture"), queue, strict=True))
            while batch := list(islice(items, args.batch_size)):
                readable = [item.pixels for item, _ in batch if isinstance(item, images.Picture)]
                found = iter(
                    predicting.predict(network, predicting.stacked(readable), args.batch_size) if readable else ()
                )
                for item, (true, path) in batch:
                    if isinstance(item, images.Unreadable):
                        unreadable += 1
                        note(f"warning: {path}: {item.reason}")
                        broken.append({"file": str(path), "error": item.reason})
                        writer.writerow([path, true, "", *[""] * len(classes), item.reason])
                        continue
                    row = next(found)
                    predicted = classes[int(row.argmax())]
                    right += predicted == true
                    writer.writerow([path, true, predicted, *(f"{share:.6f}" for share in row), ""])
                    if args.report:
                        chances = predicting.by_class(network, row, args.top_k)
                        rows.append(
                            {"file": str(path), "true": true or None, "predicted": predicted, "probabilities": chances}
                        )
        if unreadable == len(queue):
            raise UserError(f"none of {counted(unreadable, 'file')} can be read as a picture")

    console.write_atomically(args.output, write)
    if args.report:
        reporting.write(args.report, {**predicting.manifest(network, args, selection, rows), "unreadable": broken})
    scored = len(queue) - unreadable
    accuracy = None if args.image else right / scored
    if args.json:
        summary = {"type": selection.name, "split": selection.split, "pictures": scored, "unreadable": unreadable}
        print(json.dumps({**summary, "accuracy": accuracy, "table": str(args.output)}, indent=2))
        return 0
    said = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    print(
        f"{counted(scored, 'picture')}{said}" + (f", {counted(unreadable, 'file')} not readable" if unreadable else "")
    )
    print(f"wrote {args.output}" + (f", {args.report}" if args.report else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
