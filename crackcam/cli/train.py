"""``train.py``, also ``crackcam train``: its flags, and what it writes and prints of a training run."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from crackcam import distributed
from crackcam.cli import arguments, console
from crackcam.config import OUTPUTS, TrainConfig
from crackcam.files import check_writable, write_csv
from crackcam.text import counted, percent

if TYPE_CHECKING:
    from crackcam.training.history import Epoch
    from crackcam.training.trainer import TrainResult

LOG = OUTPUTS / "training.csv"
CURVES = OUTPUTS / "training_curves.png"
CONFUSION = OUTPUTS / "confusion_matrix.png"
RELIABILITY = OUTPUTS / "reliability.png"


def build_parser(manual: str | None, prog: str | None = None) -> arguments.Parser:
    """The parser of all settings of training.

    Args:
        manual: what ``--help`` shows above them.
        prog: name of the program; default: that of the script.
    """
    return arguments.Parser(manual, prog).add(TrainConfig, "settings")


def run(args: argparse.Namespace) -> int:
    """Train as the command line asks; write figures, print the result; returns the exit code."""
    config = dataclasses.replace(arguments.config_from(TrainConfig, args), command=args.command)
    check_writable(config.output, LOG, CURVES, CONFUSION, RELIABILITY, config.report)

    from crackcam.training.trainer import train

    result = train(config, on_epoch=write_log, on_result=lambda result: write_figures(result, config))
    if distributed.is_main():
        print_result(result, config)
    return 0


def write_log(history: list[Epoch]) -> None:
    """One row for each epoch, as CSV."""
    write_csv(LOG, [vars(epoch) for epoch in history])


def write_figures(result: TrainResult, config: TrainConfig) -> None:
    """The log, three figures, and the report where it was asked for."""
    from crackcam.render import figures

    card, split = result.model.card, result.split
    write_log(result.history)
    figures.training_curves(
        CURVES, [vars(epoch) for epoch in result.history], f"{card.arch}, {card.pretrained.split(':')[0]}"
    )
    accuracy = percent(result.metrics[split]["accuracy"])
    figures.confusion_matrix(CONFUSION, result.confusion, card.classes, f"{split} split, accuracy {accuracy}")
    figures.reliability(RELIABILITY, result.reliability, len(card.classes), f"{split} split, {_scores(result)}")
    if config.report:
        from crackcam.training import report_data

        report_data.write(config.report, result)


def print_result(result: TrainResult, config: TrainConfig) -> None:
    """The scores on stdout, as a table or as JSON, and the names of all files."""
    files = [result.checkpoint, LOG, CURVES, CONFUSION, RELIABILITY, result.exported, config.report]
    written = [str(path) for path in files if path]
    card = result.model.card
    if config.json:
        about = {"classes": card.classes, "pretrained": card.pretrained, "files": written}
        console.print_json({"split": result.split, **result.metrics, **about})
        return
    print(result.report)
    images = counted(len(result.splits[result.split]), "image")
    print(f"{result.split} {_scores(result)}, {images}")
    console.say("wrote " + ", ".join(written))


def _scores(result: TrainResult) -> str:
    text = "accuracy {accuracy:.4f}, ECE {ece:.4f} ({ece_before:.4f} before calibration)"
    return text.format_map(result.metrics[result.split])
