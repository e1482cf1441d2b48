"""Fill the generated tables of the reference pages from the code that they describe: make tables.

A test fails if a page is out of date. Tables: the methods, from crackcam/methods.py; the flags, from the parsers of the
scripts.
"""

import argparse
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import inference  # noqa: E402
import train  # noqa: E402
import xai  # noqa: E402
from crackcam.methods import NAMED, markdown_table  # noqa: E402

SCRIPTS = {"train.py": train, "inference.py": inference, "xai.py": xai}


def flags() -> str:
    """Return a Markdown table of all flags; flags that several scripts share appear once."""
    parsers = {name: script.build_parser() for name, script in SCRIPTS.items()}
    users: dict[tuple[str, str], list[str]] = {}
    for name, parser in parsers.items():
        for row in _rows(parser):
            users.setdefault(row, []).append(name)
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row, names in users.items():
        groups.setdefault(tuple(names), []).append(row)
    lines = ["| flag | what it does |", "|---|---|"]
    for names in sorted(groups, key=lambda names: (-len(names), [*SCRIPTS].index(names[0]))):
        lines += [f"| **{', '.join(names)}** | |", *(f"| {_code(flag)} | {text} |" for flag, text in groups[names])]
    return "\n".join(lines)


def _code(text: str) -> str:
    """Return inline code for a table cell: HTML if it has a ``|``, which GitHub and mkdocs escape differently."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield each flag with its values, and its help text."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        values = (
            "" if action.nargs == 0 else action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
        )
        values = {"?": f"[{values}]", "+": f"{values} ..."}.get(str(action.nargs), values)
        text = (action.help or "").replace(f"of these: {', '.join(NAMED)}", "of the [methods](methods.md)")
        yield (f"{action.option_strings[0]} {values}".strip(), text)


TABLES = {"methods": markdown_table, "flags": flags}
PAGES = {name: ROOT / "docs" / "reference" / f"{name}.md" for name in TABLES}


def filled(name: str, text: str) -> str:
    """Return the text of a page with its table replaced by the current one.

    Args:
        name: key of ``TABLES``.
        text: the page, with the marks ``<!-- table: NAME -->`` and ``<!-- end -->`` on lines of their own.

    Raises:
        ValueError: the page does not have the marks exactly once.
    """
    marks = rf"(<!-- table: {name} -->\n)[^\0]*?(<!-- end -->)"
    text, count = re.subn(marks, lambda found: f"{found[1]}{TABLES[name]()}\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"{count} places for the table of {name}")
    return text


if __name__ == "__main__":
    for name, page in PAGES.items():
        page.write_text(filled(name, page.read_text("utf-8")), "utf-8")
