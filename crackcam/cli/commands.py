"""The three commands: which settings each takes, and what carries it out.

The scripts at the root and the console script ``crackcam`` are made of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crackcam.cli.arguments import Parser, config_from
from crackcam.cli.console import Main, command, import_without_collection
from crackcam.cli.runs import ExplainRun, PredictRun
from crackcam.config import (
    AnalysisConfig,
    ExactRuntimeConfig,
    ExplainConfig,
    ExplainOutputConfig,
    ImagesConfig,
    ModelConfig,
    OutputConfig,
    PredictConfig,
    RuntimeConfig,
    SizesConfig,
    TrainConfig,
)
from crackcam.settings import Settings, settings_of


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: of :mod:`crackcam.cli`, whose ``run`` carries it out; it imports torch, so it is imported last.
        groups: the flags: settings by the title of their group.
        collect: makes what ``run`` takes from the parsed arguments.
        manual: description that ``crackcam COMMAND --help`` shows.
    """

    module: str
    groups: dict[str, type[Settings]]
    collect: Callable[[argparse.Namespace], Any]
    manual: str

    def parser(self, manual: str | None = None, prog: str | None = None) -> Parser:
        """Its parser, with the manual of a script."""
        parser, known = Parser(manual or self.manual, prog), set[str]()
        for title, settings in self.groups.items():
            parser.add(settings, title, known)
            known |= {each.name for each in settings_of(settings)}
        return parser

    def main(self, manual: str | None = None, prog: str | None = None) -> Main:
        """Its main function: parses arguments, runs, and returns the exit code."""

        @command
        def main(argv: Sequence[str] | None = None) -> int:
            args = self.parser(manual, prog).parse_args(argv)
            asked = self.collect(args)
            return import_without_collection(f"crackcam.cli.{self.module}").run(asked)

        return main


def _collect(run: type, groups: dict[str, type[Settings]]) -> Callable[[argparse.Namespace], Any]:
    """Makes a run, which has one object for each group of settings."""
    return lambda args: run(
        **{name: config_from(settings, args) for name, settings in groups.items()}, command=args.command
    )


TRAIN = Command(
    "train",
    {"machine": RuntimeConfig, "training": TrainConfig},
    lambda args: config_from(TrainConfig, args, command=args.command),
    "Train an image classifier by transfer learning on folders of images.",
)
_PREDICT = {
    "images": ImagesConfig,
    "model": ModelConfig,
    "predict": PredictConfig,
    "runtime": ExactRuntimeConfig,
    "output": OutputConfig,
}
PREDICT = Command(
    "predict",
    _PREDICT,
    _collect(PredictRun, _PREDICT),
    "Predict the classes of images, and draw them with their probabilities.",
)
_EXPLAIN = {
    "explain": ExplainConfig,
    "sizes": SizesConfig,
    "analysis": AnalysisConfig,
    "images": ImagesConfig,
    "model": ModelConfig,
    "predict": PredictConfig,
    "runtime": ExactRuntimeConfig,
    "output": ExplainOutputConfig,
}
EXPLAIN = Command(
    "explain", _EXPLAIN, _collect(ExplainRun, _EXPLAIN), "Show where in images the decision came from: heatmaps."
)
COMMANDS = {"train": TRAIN, "predict": PREDICT, "explain": EXPLAIN}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: ``crackcam train|predict|explain``, with the flags of the scripts."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in COMMANDS:
        return COMMANDS[name].main(prog=f"crackcam {name}")(words[1:])
    parser = Parser("Train an image classifier, predict with it, and show where the decision came from.", "crackcam")
    parser.add_argument("command", choices=COMMANDS, help="crackcam COMMAND --help lists its flags")

    @command
    def show_help(argv: Sequence[str] | None = None) -> int:
        parser.parse_args(argv)
        return 0

    return show_help([name])
