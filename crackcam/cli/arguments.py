"""argparse built from the settings in :mod:`crackcam.config`: one field is one flag."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field
from typing import Any, NoReturn, TypeVar

from crackcam.errors import UserError
from crackcam.files import exists
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
        found, surplus = super().parse_known_args(words, namespace)
        if surplus:
            self.error(f"unrecognized arguments: {' '.join(surplus)}{self._remedy(words, surplus[0])}")
        found.command = shlex.join([*self.call, *words])
        return found

    def _remedy(self, words: Sequence[str], unknown: str) -> str:
        """What to type instead of a word that belongs to no flag."""
        flags = self._option_string_actions
        if unknown.startswith("-"):
            close = difflib.get_close_matches(unknown.split("=")[0], flags, n=1)
            return f": did you mean {close[0]}?" if close else ""
        place = words.index(unknown) if unknown in words else 0
        before = next((i for i in reversed(range(place)) if words[i].startswith("--")), None)
        first = place if before is None else before + 1
        for last in range(len(words), first, -1):  # the longest name of a file that the words make
            name = " ".join(words[first:last])
            if last - first > 1 and exists(name):
                flag = self._flag_of_files if before is None else words[before]
                return f": quote a name with spaces: {flag} {shlex.quote(name)}"
        return f": type {shlex.join([*self.call, self._flag_of_files, unknown])}"

    @property
    def _flag_of_files(self) -> str:
        """The flag that takes what a user has: images, else a data folder."""
        return next(flag for flag in ("--image", "--data", "--help") if flag in self._option_string_actions)

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
