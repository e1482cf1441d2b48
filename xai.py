"""Show where in the picture the decision came from: heat maps over pictures of a class folder, or any pictures.

    python xai.py                                          nine pictures of the default class, Grad-CAM
    python xai.py --type Negative --method eigencam        the tutorials' call
    python xai.py --image bridge.jpg --target Positive     what speaks for Positive in a picture of your own
    python xai.py --image shark.jpg --arch vgg16           an ImageNet network, without any training
    python xai.py --method gradcam,layercam,eigencam       several methods, side by side; all: every quick one
    python xai.py --image street.jpg --arch fasterrcnn_resnet50_fpn --method eigencam --score-threshold 0.9
                                                           the boxes of a detector, and what they rest on
    python xai.py --method layercam --verify               the same maps by the package grad-cam: differences, times
    python xai.py --type Positive --masks data/masks --num 60 --method all      how well each method finds the cracks
    python xai.py --image crack.jpg --anatomy              how Grad-CAM comes about on that picture, step by step
    python xai.py --num 200 --report                       also as one web page to look at and to mail
    python xai.py --list-layers                            where else a map can be made: --layer layer3

The pictures are those that inference.py draws for the same flags. Writes outputs/xai_<type>_<method>.png with a .json
beside it; several methods share outputs/xai_<type>_compared.png, a row for each picture. --save-maps DIR also writes
each map as <stem>.npy (several methods: <stem>_<method>.npy): float32 (H, W) at the picture's own size, >= 0, in the
method's own unit, so that pictures can be compared. --masks DIR (<stem>.png, white on what is to be found) scores the
maps, beside maps that know no network: a table, outputs/xai_<type>_scores.csv, and a figure of the first nine pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from crackcam import console
from crackcam.console import OUTPUTS, UserError, note
from crackcam.methods import METHODS, STYLES, method_class, named_methods

SCORED_ROWS = 9  # pictures in the figure of scores


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    maps = parser.add_argument_group("heat maps")
    maps.add_argument(
        "--method",
        type=named_methods,
        default=["gradcam"],
        metavar="NAME[,NAME]|all",
        help=f"default: gradcam; all: each that costs at most ten forward passes; or of these: {', '.join(METHODS)}",
    )
    maps.add_argument(
        "--target",
        metavar="predicted|CLASS",
        help="class, or its index, to explain (default: --type; of --image, predicted)",
    )
    maps.add_argument(
        "--layer",
        type=console.split_names,
        metavar="NAME[,NAME]",
        help="target layers (default: the last grid before the head)",
    )
    maps.add_argument(
        "--list-layers", action="store_true", help="print the layers that --layer takes, with their shapes"
    )
    maps.add_argument(
        "--aug-smooth", action="store_true", help="average over mirrored and scaled variants: 7 times the work"
    )
    maps.add_argument(
        "--eigen-smooth", action="store_true", help="first principal component instead of the sum of channels"
    )
    maps.add_argument("--style", choices=STYLES, default="overlay", help="how maps are shown (default: overlay)")
    maps.add_argument(
        "--colormap", metavar="NAME", help="of matplotlib (default: inferno; with --style edges coolwarm)"
    )
    maps.add_argument("--anatomy", action="store_true", help="one figure of how Grad-CAM comes about, of one picture")
    maps.add_argument("--verify", action="store_true", help="compare with the maps of the installed package grad-cam")
    maps.add_argument("--masks", type=Path, metavar="DIR", help="score the maps against masks of the pictures' names")
    maps.add_argument("--save-maps", type=Path, metavar="DIR", help="also write each map as a .npy file")
    console.add_picture_flags(parser)
    # Maps are compared and scored by their values: exact by default, where predictions may be fast.
    console.add_machine_flags(parser, precision="fp32")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the .png (default: in outputs/)")
    console.add_report_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.output and args.output.suffix.lower() != ".png":
        raise UserError(f"--output {args.output} must end in .png")
    if args.anatomy and (args.method != ["gradcam"] or args.masks or args.report):
        raise UserError("--anatomy shows how Grad-CAM comes about: leave --method, --masks and --report out")
    if args.verify and (args.aug_smooth or args.eigen_smooth):
        raise UserError("--verify compares maps that are not smoothed: leave --aug-smooth and --eigen-smooth out")

    from crackcam import detecting, explaining, figures, predicting, reporting, scoring, verifying
    from crackcam import model as m

    style = figures.choose_style(args.style, args.colormap)
    if detecting.is_detector(args.arch):
        return report(detecting.explain(args, style), args.json, args.save_maps)
    network = predicting.open_network(args)
    size, geometry = network.card.image_size, network.card.geometry
    if args.list_layers:
        found, default = m.grid_layers(network.model, size)
        for name, (channels, height, width, _) in found.items():
            print(f"{name}  {channels} x {height} x {width}{'  (default)' if name == default else ''}")
        return 0

    layers = {name: m.find_target_layers(network.model, size, args.layer, METHODS[name].stages) for name in args.method}
    selection = predicting.select(args, network.card)
    true = next(iter(selection.files)) or None
    target = args.target or true or "predicted"
    classes = network.card.classes
    wanted = None if target == "predicted" else predicting.class_index(network.card, target)
    target = target if wanted is None else classes[wanted]

    several = len(args.method) > 1
    suffix = "anatomy" if args.anatomy else "scores" if args.masks else "compared" if several else args.method[0]
    grid = args.output or OUTPUTS / f"xai_{selection.name}_{suffix}.png"
    console.check_writable(grid, args.report)
    pictures = predicting.read_selection(args, selection)
    masks = scoring.read_masks(args.masks, pictures) if args.masks else []
    if args.save_maps:
        explaining.check_names([item.path for item in pictures])
    pixels = predicting.to_pixels(network, [item.pixels for item in pictures])
    probabilities = predicting.predict(network, pixels, args.batch_size)
    targets = [int(row.argmax()) if wanted is None else wanted for row in probabilities]

    if args.anatomy:
        layer, first = layers["gradcam"][0], pictures[0]
        steps = explaining.anatomy(network, layer, pixels[:1], targets[0])
        chances = predicting.by_class(network, probabilities[0], args.top_k)
        small = figures.thumbnail(first.pixels)
        tile = figures.Tile(small, first.path.name, chances, true)
        over = explaining.drawn(steps.heat, small, geometry, style)
        title = f"Grad-CAM at {layer.name} of {network.card.arch}, {first.path.name}: {classes[targets[0]]}"
        figures.anatomy(grid, title, tile, over, steps, classes[targets[0]])
        row = {
            "file": str(first.path), "true": true, "predicted": tile.predicted, "probabilities": chances,
            "target": classes[targets[0]], "weights": [round(float(weight), 8) for weight in steps.weights],
        }  # fmt: skip
        document = {**predicting.manifest(network, args, selection, [row]), "layer": layer.name, "picture": str(grid)}
        return report(document, args.json)

    heats, seconds = {}, {}
    for method in args.method:
        note(f"{method} at {', '.join(layer.name for layer in layers[method])}, explaining {target}")
        method_class(method)  # imported now: its time is not the method's
        start = time.perf_counter()
        try:
            heats[method] = explaining.heat_maps(
                network, method, layers[method], pixels, targets,
                batch_size=args.batch_size, aug_smooth=args.aug_smooth, eigen_smooth=args.eigen_smooth,
            )  # fmt: skip
        except UserError as error:
            if not several:
                raise
            note(f"warning: left out {error}")
        seconds[method] = time.perf_counter() - start
    if not heats:
        raise UserError("none of these methods can explain this network")
    compared = verifying.verify(network, layers, pixels, targets, heats, seconds) if args.verify else []

    tiles, drawings, rows = [], [], []
    for i, (item, chances, index) in enumerate(zip(pictures, probabilities, targets, strict=True)):
        small = figures.thumbnail(item.pixels)
        peaks = {method: float(heat[i].max()) for method, heat in heats.items()}
        in_figure = heats.values() if i < SCORED_ROWS or not args.masks else ()
        drawings.append([explaining.drawn(heat[i], small, geometry, style) for heat in in_figure])
        explained = figures.shortened(classes[index], 24)
        says = f"explains: {explained}" if any(peaks.values()) else f"nothing speaks for {explained} here"
        shown = small
        if not several and not args.masks:
            shown = figures.beside(small, drawings[-1][0]) if style.beside else drawings[-1][0]
        tiles.append(figures.Tile(shown, item.path.name, predicting.by_class(network, chances, args.top_k), true, says))
        maps: dict[str, dict] = {method: {"max": peak} for method, peak in peaks.items()}
        for method, heat in heats.items() if args.save_maps else ():
            whole = explaining.at_picture_size(explaining.as_map(heat[i]), item.pixels, geometry)
            maps[method]["file"] = explaining.save_map(args.save_maps, item.path, whole, method if several else "")
        rows.append({
            "file": str(item.path), "true": true, "predicted": tiles[-1].predicted,
            "probabilities": tiles[-1].probabilities, "target": classes[index], "maps": maps,
        })  # fmt: skip

    scores: list[dict] = []
    if args.masks:
        maps_of = {name: explaining.at_picture_sizes(heat, pictures, geometry) for name, heat in heats.items()}
        scores = scoring.compared(pictures, masks, maps_of)
        console.write_csv(grid.with_suffix(".csv"), scores)
    names = {method: [layer.name for layer in layers[method]] for method in heats}
    where = ", ".join(sorted({name for of_method in names.values() for name in of_method}))
    title = f"{where} of {network.card.arch}: what speaks for {target if wanted is not None else 'the predicted class'}"
    if args.masks:
        captions = scoring.captions(masks[:SCORED_ROWS], maps_of)
        marked = [
            (tile._replace(picture=figures.outlined(tile.picture, mask)), drawn)
            for tile, drawn, mask in zip(tiles, drawings, masks[:SCORED_ROWS], strict=False)
        ]
        figures.comparison(grid, title, list(heats), marked, style, captions)
    elif several:
        figures.comparison(grid, title, list(heats), list(zip(tiles, drawings, strict=True)), style)
    else:
        figures.heat_grid(grid, f"{args.method[0]} at {title}", tiles, style, bar=not METHODS[args.method[0]].picture,
                          lines=args.top_k or (1 if network.path else predicting.TOP_OF_MANY))  # fmt: skip
    document = {
        **predicting.manifest(network, args, selection, rows), "methods": names, "target": target,
        "aug_smooth": args.aug_smooth, "eigen_smooth": args.eigen_smooth, "picture": str(grid),
        "seconds": {method: round(seconds[method], 3) for method in heats},
    }  # fmt: skip
    if args.verify:
        document["verified"] = [comparison._asdict() for comparison in compared]
    if args.masks:
        document |= {"scores": scores, "table": str(grid.with_suffix(".csv"))}
    if args.report:
        if args.masks:
            scoring.score_each(rows, masks, maps_of)
        whole_pictures = [item.pixels for item in pictures]
        small_maps = explaining.small_maps(heats, whole_pictures, geometry, reporting.MAP_SIDE)
        reporting.write(args.report, document, whole_pictures, small_maps, style.colours, masks)
        document["report"] = str(args.report)
    if args.masks and not args.json:
        print(scoring.table(scores))
    if args.verify and not args.json:
        print(verifying.table(compared))
    return report(document, args.json, args.save_maps)


def report(document: dict, as_json: bool, maps: Path | None = None) -> int:
    """Write the JSON file beside the picture, and say what was written."""
    picture = Path(document["picture"])
    console.write_json(picture.with_suffix(".json"), document)
    written = [
        str(picture),
        str(picture.with_suffix(".json")),
        *(document[key] for key in ("table", "report") if key in document),
    ]
    also = f", and maps in {maps}" if maps else ""
    print(json.dumps(document, indent=2) if as_json else f"wrote {', '.join(written)}{also}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
