"""Predict pictures of a class folder, or any pictures, and draw them with their probabilities.

    python inference.py                                    nine pictures of the default class
    python inference.py --type Negative --seed 7           nine others
    python inference.py --image bridge.jpg photos/         pictures of your own
    python inference.py --all                              every picture of the test split, as a table
    python inference.py --image flight/ --all --resume     of a folder tree; goes on where it was killed
    torchrun --nproc_per_node=4 inference.py --image flight/ --all       shared by four processes, on a GPU each
    python inference.py --image street.jpg --arch fasterrcnn_resnet50_fpn --score-threshold 0.9     boxes of a detector

Everything about the network comes from the checkpoint that train.py wrote. Writes outputs/inference_<type>.png with a
.json beside it; with --all, outputs/predictions_<type>.csv: file, true, predicted, one probability a class, and what is
wrong with files that cannot be read; or the same as .jsonl, where --output ends so. A detector's boxes also go into
outputs/inference_images_coco.json, as COCO has them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crackcam import files, text
from crackcam.cli import console
from crackcam.config import OUTPUTS
from crackcam.errors import UserError
from crackcam.text import counted

if TYPE_CHECKING:
    from crackcam.classifier import LoadedModel, Selection


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    console.add_picture_flags(parser)
    console.add_stream_flags(parser, "a table of predictions")
    console.add_machine_flags(parser, precision="auto")
    parser.add_argument(
        "--output",
        type=console.path,
        metavar="FILE",
        help="the .png; with --all the .csv or .jsonl (default: in outputs/)",
    )
    console.add_report_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    console.check_stream_flags(args)

    from crackcam import classifier
    from crackcam.batch import folders
    from crackcam.explain import detectors

    if detectors.is_detector(args.arch):
        return draw_boxes(args)
    network = classifier.open_model(args)
    selection = classifier.select(args, network.card, every_class=args.all)
    kind = "predictions" if args.all else "inference"
    args.output = args.output or OUTPUTS / f"{kind}_{selection.name}{'.csv' if args.all else '.png'}"
    files.check_writable(args.output, args.report)
    if args.all:
        return folders.conclude(args, folders.predict(args, network, selection))
    return draw_grid(args, network, selection)


def draw_grid(args: argparse.Namespace, network: LoadedModel, selection: Selection) -> int:
    """A few pictures as a grid."""
    from crackcam import classifier
    from crackcam.render import figures, overlays, report

    pictures = classifier.read_selection(args, selection)
    true = next(iter(selection.files)) or None
    pixels = classifier.to_pixels(network, [item.pixels for item in pictures])
    probabilities = [
        classifier.by_class(network, row, args.top_k) for row in classifier.predict(network, pixels, args.batch_size)
    ]
    tiles = [
        figures.Tile(overlays.thumbnail(item.pixels), item.path.name, chances, true)
        for item, chances in zip(pictures, probabilities, strict=True)
    ]
    wrong = sum(tile.incorrect for tile in tiles)
    title = f"{true}: {len(tiles) - wrong} of {len(tiles)} correct" if true else "Predictions"
    by_model = figures.model_label(network.card.arch, network.path or network.card.pretrained)
    figures.prediction_grid(args.output, title, tiles, args.top_k, by_model)
    rows = [
        {"file": str(item.path), "true": true, "predicted": tile.predicted, "probabilities": tile.probabilities}
        for item, tile in zip(pictures, tiles, strict=True)
    ]
    document = {**classifier.manifest(network, args, selection, rows), "picture": str(args.output)}
    if args.report:
        report.write(args.report, document, [item.pixels for item in pictures])
        document["report"] = str(args.report)
    files.write_json(args.output.with_suffix(".json"), document)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    for item, tile in zip(pictures, tiles, strict=True):
        mark = "   <- wrong" if tile.incorrect else ""
        console.say(f"{item.path}  {tile.predicted} {text.confidence_text(tile.probabilities[tile.predicted])}{mark}")
    print(f"{len(tiles) - wrong} of {counted(len(tiles), 'picture')} right" if true else counted(len(tiles), "picture"))
    console.say(
        f"wrote {args.output}, {args.output.with_suffix('.json')}" + (f", {args.report}" if args.report else "")
    )
    return 0


def draw_boxes(args: argparse.Namespace) -> int:
    """What a detector finds in a few pictures."""
    from crackcam import classifier
    from crackcam.explain import detectors
    from crackcam.render import figures, overlays

    if args.all:
        raise UserError("--all scores classes; the boxes of many pictures: --image FOLDER --num 1000")
    if args.report:
        raise UserError(f"--report is for classifiers; {args.arch} is a detector")
    network = detectors.open_detector(args)
    selection = classifier.select(args, network.card)
    picture = args.output or OUTPUTS / f"inference_{selection.name}.png"
    coco = picture.with_name(f"{picture.stem}_coco.json")
    files.check_writable(picture)
    found = detectors.find(args, network, selection)
    side = round(figures.DPI * figures.detection_side(len(found)))
    tiles = [detectors.tile(item, boxes, overlays.thumbnail(item.pixels, side)) for item, boxes in found]
    title, by_model = f"Boxes that score above {args.score_threshold:g}", figures.model_label(network.card.arch)
    figures.detection_grid(picture, title, tiles, model=by_model)
    ids = detectors.image_ids([item for item, _ in found])
    rows = [detectors.as_row(item, boxes, ids[item.path]) for item, boxes in found]
    document = {**classifier.manifest(network, args, selection, rows), "score_threshold": args.score_threshold}
    document |= {"picture": str(picture), "coco": str(coco)}
    files.write_json(picture.with_suffix(".json"), document)
    files.write_json(coco, detectors.as_coco(rows))
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    for item, boxes in found:
        best = ", ".join(f"{d.name} {text.percent(d.score)}" for d in boxes[:5]) or "nothing found"
        console.say(f"{item.path}  {best}{f', and {len(boxes) - 5} more' if len(boxes) > 5 else ''}")
    console.say(f"wrote {picture}, {picture.with_suffix('.json')}, {coco}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
