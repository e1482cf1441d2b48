"""``train.py``, also ``crackcam train``: what it writes and prints of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crackcam import distributed
from crackcam.cli import console
from crackcam.cli.documents import check_inputs, prepare_output
from crackcam.config import OUTPUTS, TrainConfig
from crackcam.data.sources import has_loose_images
from crackcam.errors import UserError
from crackcam.files import check_writable, write_csv
from crackcam.text import counted, percent

if TYPE_CHECKING:
    from crackcam.training.history import Epoch
    from crackcam.training.trainer import TrainResult

LOG = OUTPUTS / "training.csv"
CURVES = OUTPUTS / "training_curves.png"
CONFUSION = OUTPUTS / "confusion_matrix.png"
RELIABILITY = OUTPUTS / "reliability.png"
SCORES = "accuracy {accuracy:.4f}, ECE {ece:.4f} ({ece_before:.4f} before calibration)"


def run(config: TrainConfig) -> int:
    """Train, write figures, print the result; returns the exit code."""
    if has_loose_images(config.data):
        classes = f"{config.data / 'train' / 'cracked'}/ and {config.data / 'train' / 'sound'}/"
        raise UserError(
            f"{config.data} has images and no class folders: move them into, say, {classes} (data/README.md)"
        )
    prepare_output(config.resume, config.output)
    check_writable(LOG, CURVES, CONFUSION, RELIABILITY, config.report)
    check_inputs(filter(None, [config.verdicts]), LOG)
    from crackcam.training.trainer import train

    result = train(config, on_epoch=write_log, on_result=lambda result: write_figures(result, config))
    if distributed.is_main():
        print_result(result, config)
    return 0


def write_log(history: list[Epoch]) -> None:
    """Write one row for each epoch, as CSV."""
    write_csv(LOG, [vars(epoch) for epoch in history])


def write_figures(result: TrainResult, config: TrainConfig) -> None:
    """Write the log, three figures, and the report where it was asked for."""
    from crackcam.render import figures

    card, split, scores = result.classifier.card, result.split, result.metrics[result.split]
    write_log(result.history)
    model = figures.model_label(card.arch, result.checkpoint)
    title = f"{card.arch}, {result.origin.label}"
    if len(result.history) > 1:
        figures.training_curves(CURVES, [vars(epoch) for epoch in result.history], title, model)
    else:  # one epoch makes no curve, and that of an earlier run is another's
        CURVES.unlink(missing_ok=True)
    title = f"{split} split, accuracy {percent(scores['accuracy'])}"
    figures.confusion_matrix(CONFUSION, result.confusion, card.classes, title, model)
    title = f"{split} split, {SCORES.format_map(scores)}"
    figures.reliability(RELIABILITY, vars(result.reliability), len(card.classes), title, model)
    if config.report:
        from crackcam.training import report_data

        report_data.write(config.report, result)


def print_result(result: TrainResult, config: TrainConfig) -> None:
    """Print the scores, as a table or as JSON, and the names of all files."""
    curves = CURVES if len(result.history) > 1 else None
    files = [result.checkpoint, LOG, curves, CONFUSION, RELIABILITY, result.exported, config.report]
    written = [str(path) for path in files if path]
    if config.json:
        card = result.classifier.card
        about = {"classes": card.classes, "pretrained": card.pretrained, "files": written}
        console.print_json({"split": result.split, **result.metrics, **about})
        return
    print(result.report)
    images = counted(len(result.splits[result.split]), "image")
    print(f"{result.split} {SCORES.format_map(result.metrics[result.split])}, {images}")
    console.say("wrote " + ", ".join(written))
