"""``inference.py --all`` and ``xai.py --all``: every image of a selection, as a table.

A table ends in .csv or .jsonl and has a .json beside it, which describes how it was made. How images stream,
and what a kill leaves behind: :mod:`crackcam.batch.streaming`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from crackcam.batch import streaming
from crackcam.batch.streaming import Row, Rows, Run
from crackcam.batch.tasks import Task
from crackcam.distributed import rank
from crackcam.errors import UserError
from crackcam.files import write_atomically, write_cells, write_json
from crackcam.text import counted

logger = logging.getLogger(__name__)

NAMED_ERRORS = 10  # more unreadable files are counted, and listed in the table


def process(
    run: Run, task: Task, document: dict, resume: bool, more: Callable[[dict, Rows], dict] | None = None
) -> dict | None:
    """Work through all images, and write the table and the document beside it.

    Args:
        run: which images, and which table.
        task: what is done with each.
        document: how the run was made, for the .json file.
        resume: continue an interrupted run.
        more: writes other files, from the document so far and the rows; returns what the document says of them.

    Returns:
        The document, completed; None in all processes but the first.

    Raises:
        UserError: nothing can be read; or see :func:`crackcam.batch.streaming.stream`.
    """
    streaming.stream(run, task.prepare, task.work, resume, task.folders, task.read)
    if rank():
        return None
    document = {**document, **_write_table(run, task), "table": str(run.table), "run": run.identity}
    if more:
        document |= more(document, lambda: streaming.rows(run))
    write_json(run.table.with_suffix(".json"), document)
    streaming.clear(run)  # last: nothing needs the journals any more
    return document


def completed(run: Run, resume: bool, wanted: dict[str, Any]) -> dict | None:
    """The document of a run that ``--resume`` finds complete.

    Args:
        run: which images, and which table.
        resume: whether an interrupted run is continued.
        wanted: what else its document must have, by its keys, which are names of flags; None: whatever it has.

    Raises:
        UserError: it was another run; or its document has something else.
    """
    document_path = run.table.with_suffix(".json")
    complete = run.table.exists() and document_path.exists() and not (run.part / "run.json").exists()
    if not resume or not complete:
        return None
    document = streaming.read_document(document_path)
    streaming.check_same(document.get("run", {}), run)
    for name, value in wanted.items():
        if value is not None and document.get(name) != value:
            raise UserError(f"{run.table} is complete, without {value}: leave --resume or --{name} out")
    logger.info("nothing to resume: %s is complete", run.table)
    return document


def _write_table(run: Run, task: Task) -> dict[str, Any]:
    """The table, from the journals; returns the counts of its document.

    Raises:
        UserError: nothing can be read; the journals are removed then, and there is no table.
    """
    counts: Counter[str] = Counter()

    def counted_rows() -> Iterator[Row]:
        for row in streaming.rows(run):
            counts["pictures"] += "error" not in row
            counts["right"] += row["true"] is not None and row.get("predicted") == row["true"]
            counts["unreadable"] += "error" in row
            counts["measured"] += "mm_per_pixel" in row
            counts["without_scale"] += "mm_per_pixel" in row and row["mm_per_pixel"] is None
            if "error" in row and counts["unreadable"] <= NAMED_ERRORS:
                logger.warning("%s: %s", row["file"], row["error"])
            yield row

    def write(temporary: Path) -> None:
        if run.table.suffix.lower() == ".csv":
            write_cells(temporary, chain([task.header], map(task.cells, counted_rows())))
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(task.line(row)) + "\n" for row in counted_rows())
        if not counts["pictures"]:
            raise UserError(f"none of {counted(counts['unreadable'], 'file')} can be read as an image")

    try:
        write_atomically(run.table, write)
    except UserError:
        streaming.clear(run)
        raise
    if counts["unreadable"] > NAMED_ERRORS:
        logger.warning("%s could not be read, see %s", counted(counts["unreadable"], "file"), run.table)
    accuracy = counts["right"] / counts["pictures"] if run.files[0][0] else None
    found = {"pictures": counts["pictures"], "unreadable": counts["unreadable"], "accuracy": accuracy}
    return {**found, "without_scale": counts["without_scale"]} if counts["measured"] else found
