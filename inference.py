"""Predict images of a class folder, or any images, and draw them with their probabilities.

    python inference.py                                    nine images of the default class
    python inference.py --type Negative --seed 7           nine others
    python inference.py --image bridge.jpg photos/         images of your own
    python inference.py --all                              every image of the test split, as a table
    python inference.py --image flight/ --all --resume     of a folder tree; continues an interrupted run
    torchrun --nproc_per_node=4 inference.py --image flight/ --all       split among four processes, a GPU each
    python inference.py --image street.jpg --arch fasterrcnn_resnet50_fpn --score-threshold 0.9     boxes of a detector

Everything about the model comes from the checkpoint that train.py wrote. Writes outputs/inference_<type>.png with a
.json beside it; with --all, outputs/predictions_<type>.csv: file, true, predicted, one probability a class, and the
reason why a file cannot be read; or the same as .jsonl, where --output ends so. The boxes of a detector are also written
to outputs/inference_images_coco.json, in COCO's format of results.
"""

from __future__ import annotations

from collections.abc import Sequence

from crackcam.cli import console
from crackcam.cli.arguments import Parser, config_from
from crackcam.config import ImagesConfig, ModelConfig, OutputConfig, PredictConfig, PredictRun, RuntimeConfig


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add(ImagesConfig, "images").add(ModelConfig, "model").add(PredictConfig, "predictions")
    return parser.add(RuntimeConfig, "machine").add(OutputConfig, "output")


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    asked = PredictRun(
        images=config_from(ImagesConfig, args),
        model=config_from(ModelConfig, args),
        predict=config_from(PredictConfig, args),
        runtime=config_from(RuntimeConfig, args),
        output=config_from(OutputConfig, args),
        command=args.command,
    )

    from crackcam.cli import predict  # imports torch

    return predict.run(asked)


if __name__ == "__main__":
    raise SystemExit(main())
