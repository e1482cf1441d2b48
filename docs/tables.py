"""Fill the generated tables of the reference pages from the code that they describe: make tables.

A test fails where a page is out of date. The methods come from crackcam/methods.py, the flags from crackcam/config.py.
"""

import html
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import Field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from crackcam.cli.commands import COMMANDS, Command  # noqa: E402
from crackcam.methods import NAMED  # noqa: E402
from crackcam.settings import SWITCH, flag_of, settings_of  # noqa: E402

SCRIPTS = {"train.py": COMMANDS["train"], "inference.py": COMMANDS["predict"], "xai.py": COMMANDS["explain"]}

Row = tuple[str, ...]  # the cells of a table


def methods() -> str:
    """The methods, in the order of ``--help``."""
    rows = (
        (f"`{name}`", method.description, method.cost_text, "yes" if method.gradients else "no")
        for name, method in NAMED.items()
    )
    return _table(("`--method`", "description", "forward passes", "gradients"), rows)


def flags() -> str:
    """The flags of all scripts; those that several scripts share appear once."""
    users: dict[Row, list[str]] = {}
    for script, command in SCRIPTS.items():
        for row in _flags_of(command):
            users.setdefault(row, []).append(script)
    groups: dict[Row, list[Row]] = {}
    for row, scripts in users.items():
        groups.setdefault(tuple(scripts), []).append(row)
    rows: list[Row] = []
    for names in sorted(groups, key=lambda names: (-len(names), [*SCRIPTS].index(names[0]))):
        rows += [(f"**{', '.join(names)}**", ""), *groups[names]]
    return _table(("flag", "description"), rows)


def _flags_of(command: Command) -> Iterator[Row]:
    """Each flag of a command with its values, and its help text."""
    seen = set()
    for settings in command.groups.values():
        for each in settings_of(settings):
            if each.name not in seen:
                text = each.metadata["help"].replace(f"of these: {', '.join(NAMED)}", "of the [methods](methods.md)")
                yield _code(f"{flag_of(each.name)} {_values(each)}".strip()), text
            seen.add(each.name)


def _values(each: Field) -> str:
    """The values of a setting as ``--help`` shows them."""
    kind, metadata = each.metadata["kind"], each.metadata
    if kind is SWITCH:
        return ""
    text = metadata["metavar"] or "|".join(map(str, kind.choices or [each.name.upper()]))
    text = f"[{text}]" if metadata["implied"] else text
    return f"{text} ..." if kind.many else text


def _code(text: str) -> str:
    """Inline code for a cell: HTML where it has a ``|``, which GitHub and mkdocs escape differently."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


TABLES = {"methods": methods, "flags": flags}
PAGES = {name: ROOT / "docs" / "reference" / f"{name}.md" for name in TABLES}


def filled(name: str, text: str) -> str:
    """The text of a page with its table replaced by the current one.

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
