"""The JSON documents that the scripts write beside their figures and tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from crackcam.cli.runs import ExplainRun, PredictRun
from crackcam.data.selection import Selection
from crackcam.errors import UserError
from crackcam.files import check_writable, file_hash
from crackcam.models.loaded import LoadedModel
from crackcam.types import library_versions

logger = logging.getLogger(__name__)

SCHEMA = 1


def prepare_output(resume: bool, *paths: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Check that files can be written, and log which of them are replaced: none where a run is resumed.

    Args:
        resume: whether an interrupted run is continued.
        paths: the files; None: nothing to write.
        inputs: what the run reads.

    Raises:
        UserError: one cannot be written; or it is an input, which would be gone.
    """
    check_writable(*paths)
    check_inputs(inputs, *paths)
    replaced = [str(path) for path in paths if path and path.exists() and not resume]
    if replaced:
        logger.info("replacing %s", ", ".join(replaced))


def check_inputs(inputs: Iterable[Path], *paths: Path | None) -> None:
    """Raise UserError where one of the files that a run writes is one that it reads."""
    written = {path.name.casefold(): path for path in paths if path and path.exists()}
    for each in inputs if written else ():
        path = written.get(each.name.casefold())
        if path and each.exists() and path.samefile(each):
            raise UserError(f"this run reads {path}, and would replace it: choose another name for the output")


def manifest(network: LoadedModel, run: PredictRun | ExplainRun, selection: Selection, rows: list[dict]) -> dict:
    """How a result was made, and of what.

    Args:
        network: the model.
        run: what was asked for.
        selection: the images.
        rows: one for each image.
    """
    card, path = network.card, network.path
    return {
        "schema": SCHEMA,
        "command": run.command,
        "type": run.images.type if run.images.image else selection.name,
        "split": selection.split,
        "seed": run.images.seed,
        "device": str(network.runtime.device),
        "precision": network.runtime.precision,
        "engine": network.runtime.engine,
        "checkpoint": {
            "file": str(path) if path else card.pretrained,
            "sha256": file_hash(path) if path else None,
            "arch": card.arch,
        },
        "classes": len(card.classes) if card.many_classes else card.classes,
        "versions": library_versions(*network.runtime.packages),
        "pictures": rows,
    }


def table_beside(figure: Path, what: str) -> Path:
    """The name of a table beside a figure."""
    return figure.with_name(f"{figure.stem}_{what}.csv")
