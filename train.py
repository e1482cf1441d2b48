"""Train an image classifier by transfer learning on folders of pictures.

    python train.py                                        data/ -> weights/model.safetensors
    python train.py --sample                               generate data/ first: concrete with and without cracks
    python train.py --data photos --arch resnet50          any class folders, any torchvision classifier
    python train.py --epochs 0                             the linear probe alone: seconds instead of minutes

--data holds train/<class>/, and val/ and test/ likewise where you have them; or plain <class>/ folders, which are split
here. From ImageNet weights, a linear probe on features computed once comes first, then a short fine-tuning from it;
without a network connection, training starts from random weights, longer, and says so. Validation pictures choose the
epoch; the test split is scored once, at the end.

Writes weights/model.safetensors (network, classes, preprocessing, split, metrics) and, into outputs/, training.csv,
training_curves.png, confusion_matrix.png and reliability.png. Probabilities are calibrated on the validation split.
Ctrl-C keeps the best epoch so far; --resume goes on after a kill. torchrun starts one process a GPU: docs/scaling.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from crackcam import config, text
from crackcam.cli import console
from crackcam.config import OUTPUTS
from crackcam.errors import UserError
from crackcam.files import check_writable, write_csv
from crackcam.text import counted
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = console.Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=console.path, default=config.DATA, metavar="DIR", help="class folders (default: data)"
    )
    data.add_argument("--sample", action="store_true", help="generate pictures into --data where it has none")
    data.add_argument(
        "--val-fraction",
        type=console.fraction,
        default=0.15,
        metavar="F",
        help="share held out for validation where there is no val folder (default: 0.15)",
    )
    data.add_argument(
        "--group-by",
        type=console.pattern,
        metavar="REGEX",
        help="files whose names match alike, or its first (group), are held out as one (default: neighbours)",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--arch", type=console.name, default="resnet18", help="of torchvision, or timm/NAME (default: resnet18)"
    )
    network.add_argument(
        "--pretrained", type=console.name, default="auto", metavar="auto|imagenet|none|PATH",
        help="auto: ImageNet weights if they can be had, else random ones; PATH: a checkpoint or .pth",
    )  # fmt: skip
    network.add_argument(
        "--image-size", type=console.image_size, metavar="PX", help="default: what the architecture is made for"
    )
    network.add_argument(
        "--head", choices=("linear", "multiscale"), default="linear",
        help="multiscale: the logit is the sum of a map, which xai.py shows (default: linear)",
    )  # fmt: skip
    network.add_argument("--half", action="store_true", help="write weights in half precision: half the size")
    network.add_argument("--export", choices=("onnx",), help="also as weights/model.onnx, for other runtimes")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--epochs",
        type=console.whole_number,
        metavar="N",
        help="after the probe (default: 2; from random weights 3 to 30)",
    )
    recipe.add_argument("--batch-size", type=console.positive_int, default=32, metavar="N", help="default: 32")
    recipe.add_argument(
        "--lr", type=console.positive_float, help="highest one (default: 1e-4; from random weights 1e-3)"
    )
    recipe.add_argument(
        "--patience",
        type=console.whole_number,
        default=0,
        metavar="N",
        help="stop after N epochs without a better one (0: never)",
    )
    recipe.add_argument(
        "--mix-sample", type=console.share, metavar="SHARE",
        help="of each epoch's pictures drawn cracks (default: with --head multiscale 0.5 of Negative and Positive)",
    )  # fmt: skip
    recipe.add_argument(
        "--mask-weight", type=console.weight, default=8.0, metavar="W",
        help="of the places of drawn cracks in what --head multiscale learns (default: 8; 0: of labels alone)",
    )  # fmt: skip
    recipe.add_argument("--seed", type=console.seed, default=0, help="default: 0")
    recipe.add_argument("--resume", action="store_true", help="go on with the run that was killed")
    console.add_machine_flags(parser, precision="auto")
    parser.add_argument(
        "--workers", type=console.processes, default=min(4, (os.cpu_count() or 1) // 2), metavar="N",
        help="processes that augment (default: half the processors, at most 4)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=console.path, default=config.WEIGHTS, metavar="FILE", help=f"default: {config.WEIGHTS}"
    )
    console.add_report_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    names = ("training.csv", "training_curves.png", "confusion_matrix.png", "reliability.png")
    log, curves, matrix, diagram = outputs = [OUTPUTS / name for name in names]
    check_writable(args.output, *outputs, args.report)
    if args.sample:
        from crackcam.data.synthetic import sample

        sample.write_sample_if_missing(args.data)

    import torch

    from crackcam import distributed, runtime
    from crackcam.data import duplicates, pixels
    from crackcam.data.splits import plan_splits
    from crackcam.data.synthetic import datasets
    from crackcam.data.synthetic.sample import CRACK_FREE
    from crackcam.explain import thresholds
    from crackcam.models import checkpoint, checks, pretrained, registry, stages, target_layers
    from crackcam.models.loaded import LoadedModel
    from crackcam.models.multiscale import Multiscale
    from crackcam.preprocessing import Preprocessing
    from crackcam.render import figures
    from crackcam.training import resume, trainer

    if args.export:
        from crackcam.models import onnx, stages

        onnx.require(onnx.TO_WRITE)
    device = runtime.choose_device(args.device)
    dtype, reason = runtime.choose_precision(args.precision, device)
    distributed.start(device)
    made_for = registry.pretrained_config(args.arch)
    machine = runtime.Runtime(device, dtype, made_for.mean, made_for.std)
    size = args.image_size or made_for.size
    plan = plan_splits(args.data, args.val_fraction, args.seed, args.group_by)
    state_file = resume.state_path(args.output)
    before = distributed.broadcast_object(lambda: resume.read_state(state_file)) if args.resume else None
    if args.resume and not before:
        logger.info(f"nothing to resume at {state_file}; starting afresh")
    torch.manual_seed(args.seed)
    if before:  # its weights come from the state
        network, pretrained = (
            pretrained.build_classifier(args.arch, len(plan.classes)),
            str(before["run"].get("weights")),
        )
    else:
        network, pretrained = pretrained.from_weights(args.arch, args.pretrained, len(plan.classes))
    mix = datasets.synthetic_fraction(args.mix_sample, plan.classes, args.head == "multiscale")
    taught = False
    if args.head == "multiscale":
        network = stages.add_multiscale_head(network, len(plan.classes), size)
        if mix:
            network.silence(CRACK_FREE)
        taught = pretrained == f"weights of {args.pretrained}" and pretrained.load_maps(network, Path(args.pretrained))
    network = checks.place(network, device)
    from_random = pretrained.startswith("random")
    grids, target = target_layers.grid_layers(network, size)
    logger.info(f"network: {args.arch} at {size} px, {pretrained}")
    logger.info(f"machine: {runtime.describe_machine(device, dtype, reason)}")
    preprocessing = Preprocessing(size, max_scale=1.0 if args.head == "multiscale" else None)
    small = pixels.training_preprocessing(plan.files["train"], preprocessing, made_for.size)
    splits = pixels.load_splits(plan, small, args.workers)
    for said in plan.says():
        logger.info(said)
    shared = duplicates.warn_of_duplicates(splits)
    train, val = splits["train"], splits["val"]
    if mix:
        logger.info(f"synthetic images: {text.percent(mix)} of each epoch (disable them with --mix-sample 0)")
        val = pixels.concatenate(val, datasets.synthetic_split(val, args.seed, small.size))
    recipe = trainer.schedule_for(
        from_random, len(train), small.size, args.epochs, args.lr, functools.partial(checks.takes_size, network),
        multiscale=args.head == "multiscale", fresh_head=not taught, batch_size=args.batch_size,
        patience=args.patience, seed=args.seed, workers=args.workers, mix=mix, mask_weight=args.mask_weight,
    )  # fmt: skip

    card = ModelCard(
        args.arch, plan.classes, size, made_for.mean, made_for.std, max_scale=preprocessing.max_scale, head=args.head,
        pretrained=pretrained, split=plan.held_out, stages=network.stages if isinstance(network, Multiscale) else {},
        output_stride=size // grids[target].height if target else None,
        training={name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
    )  # fmt: skip
    history: list[trainer.Epoch] = []

    def record(epoch: trainer.Epoch) -> None:
        """Says how an epoch went; keeps the network where it is the best one so far."""
        logger.info(epoch.says(len(recipe.sizes)))
        if not distributed.is_main():
            return
        write_csv(log, [vars(e) for e in history])
        if epoch.best:
            card.metrics = epoch.as_best()
            checkpoint.save(args.output, network, card)

    state = resume.StateFile(state_file, resume.what_must_agree(card, plan))
    sizes = [*map(len, splits.values())]
    distributed.check_identical(files=state.run["files"], pictures=sizes, weights=from_random)
    try:
        if not before and args.head == "linear" and (args.epochs == 0 or not from_random):
            kept = args.output.with_suffix(".features")
            history.append(trainer.linear_probe(network, machine, train, val, args.batch_size, kept))
            record(history[0])
        best_epoch = trainer.fit(network, machine, recipe, train, val, history, state, before, record)
    except KeyboardInterrupt:
        if history:
            best = trainer.best_of(history).epoch
            logger.info(f"kept the best epoch so far, {best}, in {args.output}; go on with --resume")
        raise

    if small != preprocessing:  # scored as inference will see them
        splits |= pixels.load_splits(plan, preprocessing, args.workers, ("val", "test"))
    name = "test" if len(splits.get("test", ())) else "val"
    temperature = trainer.calibrate(network, machine, splits["val"], args.batch_size)
    result = trainer.final_report(network, machine, splits[name], plan.classes, args.batch_size, temperature)
    if not distributed.is_main():
        return 0
    trained = LoadedModel(network, card, machine, args.output)
    card.thresholds = thresholds.evidence_thresholds(trained, val.pixels, val.labels, args.batch_size)
    card.metrics = {**best_epoch.as_best(), "temperature": temperature, "near_duplicates": shared, name: result.metrics}
    checkpoint.save(args.output, network, card, args.half)
    if args.export:
        outputs.append(args.output.with_suffix(".onnx"))
        onnx.export(outputs[-1], network, card, machine, splits["val"].pixels[: args.batch_size])
    write_csv(log, [vars(e) for e in history])
    figures.training_curves(curves, [vars(e) for e in history], f"{args.arch}, {pretrained.split(':')[0]}")
    figures.confusion_matrix(
        matrix, result.confusion, plan.classes, f"{name} split, accuracy {text.percent(result.metrics['accuracy'])}"
    )
    said = "accuracy {accuracy:.4f}, ECE {ece:.4f} ({ece_before:.4f} before calibration)".format_map(result.metrics)
    figures.reliability(diagram, result.reliability, len(plan.classes), f"{name} split, {said}")
    if args.report:
        from crackcam.render import report

        report.write_training(args.report, trained, splits, name, result, history)
    state.remove()  # last: killed before it, all of this comes again
    written = [str(path) for path in (args.output, *outputs, args.report) if path]
    if args.json:
        document = {"split": name, **card.metrics, "classes": plan.classes, "pretrained": pretrained, "files": written}
        print(json.dumps(document, indent=2))
    else:
        print(result.text)
        print(f"{name} {said}, {counted(len(splits[name]), 'picture')}")
        console.say("wrote " + ", ".join(written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
