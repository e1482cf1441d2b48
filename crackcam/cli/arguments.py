"""argparse built from the settings in :mod:`crackcam.config`: one field is one flag."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field
from typing import Any, NoReturn, TypeVar

from crackcam.errors import UserError
from crackcam.settings import SWITCH, Settings, flag_of, settings_of

S = TypeVar("S", bound=Settings)


class Parser(argparse.ArgumentParser):
    """argparse whose usage errors are a UserError; the script's docstring is its manual.

    Args:
        manual: what ``--help`` shows above the flags.
    """

    def __init__(self, manual: str | None, prog: str | None = None) -> None:
        super().__init__(prog, description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)

    @property
    def call(self) -> list[str]:
        """The words that start it: 'python xai.py', 'crackcam explain'."""
        return ["python", self.prog] if self.prog.endswith(".py") else self.prog.split()

    def add(self, settings: type[Settings], title: str, but: Collection[str] = ()) -> Parser:
        """Add a flag for each setting of a class, but for some names; returns itself."""
        group = self.add_argument_group(title)
        for each in settings_of(settings):
            if each.name not in but:
                group.add_argument(flag_of(each.name), **_argument(each))
        return self

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As argparse, with the whole command line as ``command``."""
        words = sys.argv[1:] if args is None else args
        if any(word == "--" or word.endswith("=--") for word in words):
            self.error("-- has no meaning here")  # argparse of Python 3.11 would make an empty list of it
        found = super().parse_args(words, namespace)
        found.command = shlex.join([*self.call, *words])
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {shlex.join(self.call)} --help)")


def config_from(settings: type[S], namespace: argparse.Namespace, **others: Any) -> S:
    """The settings of a class, from what the command line gave; and its other fields."""
    return settings(**{each.name: getattr(namespace, each.name) for each in settings_of(settings)}, **others)


def _argument(each: Field) -> dict[str, Any]:
    """What ``add_argument`` needs for a setting."""
    kind, help_text = each.metadata["kind"], each.metadata["help"]
    if kind is SWITCH:
        return {"action": "store_true", "help": help_text}
    found = {"default": each.default, "help": help_text, "metavar": each.metadata["metavar"]}
    if kind.choices:
        return {**found, "choices": kind.choices, "type": type(kind.choices[0])}
    found["type"] = _converter(kind.parse)
    if kind.many:
        found |= {"nargs": "+", "type": _converter(lambda text: kind.parse(text)[0])}
    if each.metadata["implied"] is not None:
        found |= {"nargs": "?", "const": each.metadata["implied"]}
    return found


def _converter(parse: Callable[[Any], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return convert
