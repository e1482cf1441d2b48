"""``xai.py --style mask``: what of the findings is handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from crackcam.batch.handover import Handover, finding_row, findings_table
from crackcam.batch.streaming import Row, Rows, Run
from crackcam.batch.tasks import ExplainTask
from crackcam.cli.runs import ExplainRun
from crackcam.data.names import HandoverNames
from crackcam.errors import UserError
from crackcam.models.loaded import LoadedModel
from crackcam.render.handover import table
from crackcam.render.report.findings import write_findings


def write_table(asked: ExplainRun, network: LoadedModel, rows: list[dict], path: Path) -> str:
    """Write the regions of a few images by one method; returns the path.

    Args:
        asked: the settings.
        network: the model.
        rows: of the JSON file, one for each image.
        path: the file.
    """
    names = HandoverNames.of(Path(row["file"]) for row in rows)
    found = ({**row, **next(iter(row["maps"].values()))} for row in rows)
    table.write(path, (finding_row(row, names, network.card.present) for row in found))
    return str(path)


def check_verdicts(verdicts: Path, path: Path) -> None:
    """Refuse verdicts in the table that the run writes: rejected regions would be gone from it.

    Args:
        verdicts: their file.
        path: the table of the run.

    Raises:
        UserError: they are the same file.
    """
    if verdicts.resolve() == findings_table(path).resolve():
        raise UserError(f"this run replaces {verdicts}: save the verdicts as another file, such as verdicts.csv")


def handover(asked: ExplainRun, task: ExplainTask, run: Run) -> Callable[[dict, Rows], dict]:
    """What writes the findings of a whole folder, see :meth:`crackcam.batch.handover.Handover.write`."""
    output = asked.output

    def write_report(document: dict, rows: Iterator[Row]) -> str:
        assert output.report is not None
        write_findings(output.report, document, rows)
        return str(output.report)

    present = task.explainer.network.card.present
    report = write_report if output.report else None
    return Handover(run, present, output.title, task.verdicts, report).write
