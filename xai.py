"""Show where in the picture the decision came from: heat maps over pictures of a class folder, or any pictures.

    python xai.py                                          nine pictures of the default class, the best method
    python xai.py --type Negative --method eigencam        the tutorials' call
    python xai.py --image bridge.jpg --target Positive     what speaks for Positive in a picture of your own
    python xai.py --image shark.jpg --arch vgg16           an ImageNet network, without any training
    python xai.py --method gradcam,layercam,eigencam       several methods, side by side; all: every quick one
    python xai.py --image street.jpg --arch fasterrcnn_resnet50_fpn --method eigencam --score-threshold 0.9
                                                           the boxes of a detector, and what they rest on
    python xai.py --method layercam --verify               the same maps by the package grad-cam: differences, times
    python xai.py --type Positive --masks data/masks --num 60 --method all      how well each method finds the cracks
    python xai.py --image bridge.jpg --stride 8 --scales 1,own          sharper maps, of a large photograph
    python xai.py --type Positive --metrics                how far the network itself bears each map out
    python xai.py --type Positive --style mask --refine guided      what was found: share, length, width in pixels
    python xai.py --image crack.jpg --anatomy              how Grad-CAM comes about on that picture, step by step
    python xai.py --image flight/ --all                    a map of every picture of a folder tree; see inference.py
    python xai.py --num 200 --report                       also as one web page to look at and to mail
    python xai.py --list-layers                            where else a map can be made: --layer layer3

The pictures are those that inference.py draws for the same flags. Writes outputs/xai_<type>_<method>.png with a .json
beside it; several methods share outputs/xai_<type>_compared.png, a row for each picture. --save-maps DIR also writes
each map as <stem>.npy (several methods: <stem>_<method>.npy): float32 (H, W) at the picture's own size, >= 0, in the
method's own unit, so that pictures can be compared. --masks DIR (<stem>.png, white on what is to be found) scores the
maps, beside maps that know no network: a table, outputs/xai_<type>_scores.csv, and a figure of the first nine pictures;
--metrics scores them against the network: a table, and ..._metrics.csv. --style mask shows what was found above the
checkpoint's threshold, and writes share, length and width into the .json and ..._found.csv. --all writes overlays and
saved maps in folders of 1,000 pictures, outputs/xai_<type>_<method>/00000/, and a table of them beside.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from crackcam import files
from crackcam.cli import console
from crackcam.config import OUTPUTS
from crackcam.errors import UserError
from crackcam.explain.methods import BEST, BEST_OF_ENGINE, EVIDENCE, NAMED, REFINEMENTS, STYLES, named_methods

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    maps = parser.add_argument_group("heat maps")
    maps.add_argument(
        "--method",
        type=named_methods,
        default=[BEST],
        metavar="best|NAME[,NAME]|all",
        help=f"best (default): {EVIDENCE} where the network has it, else {BEST_OF_ENGINE} on a finer grid; all: each "
        f"that costs at most ten forward passes; or of these: {', '.join(NAMED)}",
    )
    maps.add_argument(
        "--target",
        type=console.name,
        metavar="predicted|CLASS",
        help="class, or its index, to explain (default: --type; of --image, predicted)",
    )
    maps.add_argument(
        "--layer",
        type=console.split_names,
        metavar="NAME[,NAME]",
        help="target layers (default: the last grid before the head)",
    )
    maps.add_argument("--stride", type=int, choices=(4, 8, 16), help="pixels for a cell of the map, by dilation")
    maps.add_argument(
        "--scales", type=console.scales, metavar="X[,X]",
        help="mean over pictures in X times the network's size; own: at their own, in tiles (default: 1)",
    )  # fmt: skip
    maps.add_argument(
        "--fuse", choices=("mean", "product"), help="of maps of several layers: --layer, else one a grid size, of three"
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
    maps.add_argument(
        "--style", choices=STYLES, default="overlay", help="default: overlay; mask: what was found, and its size"
    )
    maps.add_argument(
        "--threshold", type=console.threshold, metavar="X", help="what is hotter was found (default: the checkpoint's)"
    )
    maps.add_argument("--refine", choices=REFINEMENTS, help="maps follow the edges of the picture, or thin lines")
    maps.add_argument(
        "--colormap",
        type=console.name,
        metavar="NAME",
        help="of matplotlib (default: inferno; with --style edges coolwarm)",
    )
    maps.add_argument("--anatomy", action="store_true", help="one figure of how Grad-CAM comes about, of one picture")
    maps.add_argument("--verify", action="store_true", help="compare with the maps of the installed package grad-cam")
    maps.add_argument(
        "--masks", type=console.path, metavar="DIR", help="score the maps against masks of the pictures' names"
    )
    maps.add_argument("--metrics", action="store_true", help="score the maps against the network: no masks needed")
    maps.add_argument("--save-maps", type=console.path, metavar="DIR", help="also write each map as a .npy file")
    console.add_picture_flags(parser)
    # Maps are compared and scored by their values: exact by default, where predictions may be fast.
    console.add_machine_flags(parser, precision="fp32")
    console.add_stream_flags(parser, "overlays in folders of 1,000, and a table of them")
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
    asked, several = args.method[0], len(args.method) > 1
    if args.method == [BEST] and (args.anatomy or args.verify):
        args.method = ["gradcam"]
    more = args.masks or args.metrics or args.scales or args.fuse or args.report or args.style == "mask"
    if args.anatomy and (more or args.method != ["gradcam"]):
        flags = "--method, --masks, --metrics, --scales, --fuse, --report and --style mask"
        raise UserError(f"--anatomy shows how Grad-CAM comes about: leave {flags} out")
    if args.refine and (args.anatomy or args.verify):
        raise UserError("--anatomy and --verify are about maps as the method makes them: leave --refine out")
    if args.verify and (args.aug_smooth or args.eigen_smooth or args.scales or args.fuse):
        raise UserError("--verify compares plain maps: leave --aug-smooth, --eigen-smooth, --scales and --fuse out")
    if args.threshold is not None and (several or (args.style != "mask" and not args.masks)):
        raise UserError("--threshold cuts the maps of one --method, for --style mask or --masks")

    if args.all and (args.masks or args.metrics or args.verify or args.anatomy or args.report or several):
        flags = "--masks, --metrics, --verify, --anatomy and --report"
        raise UserError(f"--all draws picture after picture, by one --method: leave {flags} out")

    from crackcam import classifier
    from crackcam.batch import folders
    from crackcam.evaluation import faithfulness, mask_scores, verification
    from crackcam.explain import detectors, heatmaps, thresholds
    from crackcam.models import output_stride, target_layers
    from crackcam.render import figures, overlays, showing

    style = overlays.choose_style(args.style, args.colormap)
    if detectors.is_detector(args.arch):
        return showing.conclude(detectors.explain(args, style), args)
    network = classifier.open_model(args, layers=True)
    size = network.card.image_size
    if args.list_layers:
        found, default = target_layers.grid_layers(
            output_stride.dilate(network.model, args.stride, size) if args.stride else network.model, size
        )
        for name, (channels, height, width, _) in found.items():
            console.say(f"{name}  {channels} x {height} x {width}{'  (default)' if name == default else ''}")
        return 0

    heatmaps.settle_best(args, network)
    finer = network._replace(model=output_stride.dilate(network.model, args.stride, size)) if args.stride else network
    layers = {  # found in the network as it is, where the stages differ in their grids
        name: target_layers.find_target_layers(
            network.model, size, args.layer, NAMED[name].stages or bool(args.fuse), finer.model
        )
        for name in args.method
    }
    selection = classifier.select(args, network.card, every_class=args.all)
    true = (next(iter(selection.files)) or None) if len(selection.files) == 1 else None
    target = args.target or true or "predicted"
    classes = network.card.classes
    wanted = None if target == "predicted" else classifier.class_index(network.card, target)
    target = target if wanted is None else classes[wanted]

    suffix = "anatomy" if args.anatomy else "scores" if args.masks else "compared" if several else asked
    grid = args.output or OUTPUTS / f"xai_{selection.name}_{suffix}.{'csv' if args.all else 'png'}"
    files.check_writable(grid, args.report)
    if args.all:
        args.output = grid
        return folders.conclude(args, folders.explain(args, network, finer, layers, style, selection, wanted))
    pictures = classifier.read_selection(args, selection)
    masks = mask_scores.read_masks(args.masks, pictures) if args.masks else []
    if args.save_maps:
        heatmaps.check_names([item.path for item in pictures])
    pixels = classifier.to_pixels(network, [item.pixels for item in pictures])
    if args.anatomy:
        chances = classifier.predict(network, pixels[:1], 1)[0]
        document = showing.anatomy(args, grid, finer, style, layers["gradcam"][0], selection, pictures[0], pixels[:1],
                                   chances, int(chances.argmax()) if wanted is None else wanted)  # fmt: skip
        return showing.conclude({**document, "stride": args.stride}, args)

    originals = [item.pixels for item in pictures]
    probabilities, targets, heats, seconds = heatmaps.by_methods(
        args, network, finer, layers, pixels, originals, wanted, target
    )
    compared = verification.verify(finer, layers, pixels, targets, heats, seconds) if args.verify else []

    known = {method: thresholds.known_thresholds(args, network.card, method, targets) for method in heats}
    cuts = known
    if args.style == "mask":
        cuts = {method: thresholds.complete_thresholds(known[method], method, list(heats[method])) for method in heats}
    shown = showing.show(args, network, style, true, pictures, probabilities, targets, heats, cuts)
    names = {method: [layer.name for layer in layers[method]] for method in heats}
    where = ", ".join(sorted({name for of_method in names.values() for name in of_method}))
    where = "all stages" if list(heats) == [EVIDENCE] else where
    title = f"{where}: evidence for {target if wanted is not None else 'the predicted class'}"
    by_model = figures.model_label(network.card.arch, network.path or network.card.pretrained)
    lines = 1 if network.path else classifier.TOP_OF_MANY
    showing.draw(args, grid, title, style, shown, masks, lines, by_model)
    document = {
        **classifier.manifest(network, args, selection, shown.rows), "methods": names, "target": target,
        "stride": args.stride, "scales": args.scales or [1], "fuse": args.fuse, "refine": args.refine,
        "aug_smooth": args.aug_smooth, "eigen_smooth": args.eigen_smooth, "picture": str(grid),
        "seconds": {method: round(seconds[method], 3) for method in heats},
    }  # fmt: skip
    tables = []
    if args.masks:
        document["scores"] = mask_scores.compare_masks(pictures, masks, shown.wholes, known)
        document["table"] = files.write_csv(grid.with_suffix(".csv"), document["scores"])
        tables.append(mask_scores.mask_table(document["scores"]))
    if args.metrics:
        logger.info("scoring the maps, and those that know no network, against it: a hundred forward passes each")
        settings = {"batch_size": args.batch_size, "aug_smooth": args.aug_smooth, "eigen_smooth": args.eigen_smooth}
        explains = {m: heatmaps.explainer(finer, m, layers[m], args.refine, **settings) for m in heats}
        document["metrics"] = faithfulness.compare_faithfulness(finer, explains, pixels, targets, args.batch_size)
        document["metrics_table"] = files.write_csv(showing.beside(grid, "metrics"), document["metrics"])
        tables.append(faithfulness.faithfulness_table(document["metrics"]))
    if args.verify:
        document["verified"] = [comparison._asdict() for comparison in compared]
        tables.append(verification.table(compared))
    if args.report:
        showing.report(args, document, style, shown, pictures, masks)
    return showing.conclude(document, args, tables)


if __name__ == "__main__":
    raise SystemExit(main())
