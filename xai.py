"""Show where in the picture the decision came from: heat maps over pictures of a class folder, or any pictures.

    python xai.py                                          nine pictures of the default class, Grad-CAM
    python xai.py --type Negative --method eigencam        the tutorials' call
    python xai.py --image bridge.jpg --target Positive     what speaks for Positive in a picture of your own
    python xai.py --list-layers                            where else a map can be made: --layer layer3

The pictures are those that inference.py draws for the same flags. Writes outputs/xai_<type>_<method>.png with a .json
beside it. --save-maps DIR also writes each map as <stem>.npy: float32 (H, W) at the picture's own size, >= 0, in the
method's own unit, so that pictures can be compared.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from crackcam import console
from crackcam.console import OUTPUTS, UserError, note
from crackcam.methods import METHODS


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    maps = parser.add_argument_group("heat maps")
    maps.add_argument("--method", choices=METHODS, default="gradcam", help="default: gradcam")
    maps.add_argument(
        "--target", metavar="predicted|CLASS", help="class to explain (default: --type; predicted for --image)"
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
    maps.add_argument("--save-maps", type=Path, metavar="DIR", help="also write each map as a .npy file")
    console.add_picture_flags(parser)
    # Maps are compared and scored by their values: exact by default, where predictions may be fast.
    console.add_machine_flags(parser, precision="fp32")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the .png (default: in outputs/)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.output and args.output.suffix.lower() != ".png":
        raise UserError(f"--output {args.output} must end in .png")

    import numpy as np

    from crackcam import explaining, figures, predicting
    from crackcam import model as m
    from pytorch_grad_cam.utils.maps import normalize

    network = predicting.open_network(args)
    if args.list_layers:
        grids, default = m.grid_layers(network.model, network.card.image_size)
        for name, (channels, height, width) in grids.items():
            print(f"{name}  {channels} x {height} x {width}{'  (default)' if name == default else ''}")
        return 0

    layers = m.find_target_layers(network.model, network.card.image_size, args.layer)
    layer_names = [layer.name for layer in layers]
    selection = predicting.select(args, network.card)
    true = next(iter(selection.files)) or None
    target = args.target or true or "predicted"
    classes = network.card.classes
    if target not in ("predicted", *classes):
        raise UserError(f"no class {target!r} to explain; there are: predicted, {', '.join(classes)}")

    grid = args.output or OUTPUTS / f"xai_{selection.name}_{args.method}.png"
    console.check_writable(grid)
    pictures = predicting.read_selection(args, selection)
    stems = [item.path.stem for item in pictures]
    if args.save_maps and len(set(stems)) < len(stems):
        raise UserError("two of the pictures have the same name: their maps would overwrite each other")
    pixels = predicting.to_pixels(network, [item.pixels for item in pictures])
    probabilities = predicting.predict(network, pixels, args.batch_size)
    targets = [int(row.argmax()) if target == "predicted" else classes.index(target) for row in probabilities]
    note(f"{args.method} at {', '.join(layer_names)}, explaining {target}")
    heat = explaining.heat_maps(
        network, args.method, layers, pixels, targets,
        batch_size=args.batch_size, aug_smooth=args.aug_smooth, eigen_smooth=args.eigen_smooth,
    )  # fmt: skip

    tiles, rows = [], []
    for item, chances, index, one in zip(pictures, probabilities, targets, heat, strict=True):
        small = figures.thumbnail(item.pixels)
        peak, explained = float(one.max()), figures.shortened(classes[index], 24)
        says = f"heat: {explained}" if peak > 0 else f"nothing speaks for {explained} here"
        picture = figures.overlay(small, explaining.at_picture_size(normalize(one[None])[0], small))
        tiles.append(figures.Tile(picture, item.path.name, predicting.by_class(network, chances), true, says))
        rows.append({
            "file": str(item.path), "true": true, "predicted": tiles[-1].predicted,
            "probabilities": tiles[-1].probabilities, "target": classes[index], "map_max": peak,
        })  # fmt: skip
        if args.save_maps:
            whole = explaining.at_picture_size(one, item.pixels)
            path = args.save_maps / f"{item.path.stem}.npy"
            console.write_atomically(path, functools.partial(np.save, arr=whole))
            rows[-1]["map"] = str(path)

    title = f"{args.method} at {', '.join(layer_names)} of {network.card.arch}: what speaks for {target}"
    figures.heat_grid(grid, title, tiles)
    document = {
        **predicting.manifest(network, args, selection, rows), "method": args.method, "layer": layer_names,
        "target": target, "aug_smooth": args.aug_smooth, "eigen_smooth": args.eigen_smooth, "picture": str(grid),
    }  # fmt: skip
    console.write_json(grid.with_suffix(".json"), document)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        maps = f", {len(rows)} maps in {args.save_maps}" if args.save_maps else ""
        print(f"wrote {grid}, {grid.with_suffix('.json')}{maps}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
