"""``xai.py --style mask``: what of the findings is handed over."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from crackcam.batch.handover import Handover, finding_row, findings_table
from crackcam.batch.streaming import Row, Rows, Run
from crackcam.batch.tasks import ExplainTask
from crackcam.cli.runs import ExplainRun
from crackcam.config import SizesConfig
from crackcam.data.capture import read_capture
from crackcam.data.names import HandoverNames
from crackcam.data.scene import ImageError
from crackcam.data.verdicts import read_verdicts
from crackcam.data.windows import is_orthomosaic, open_orthomosaic
from crackcam.errors import UserError
from crackcam.models.loaded import LoadedModel
from crackcam.render.handover import table
from crackcam.render.report.findings import write_findings
from crackcam.sizes import NARROWEST, Scale, metric_text, too_fine
from crackcam.text import counted

logger = logging.getLogger(__name__)

FIRST = 100  # files that are looked at for a scale before the work


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
    """Refuse verdicts that cannot be read, or in a table that the run writes: rejected regions would be gone from it.

    Args:
        verdicts: their file.
        path: the table of the run.

    Raises:
        UserError: see above.
    """
    read_verdicts(verdicts)
    if verdicts.resolve() in (path.resolve(), findings_table(path).resolve()):
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


# -- scales


def warn_of_limits(sizes: SizesConfig, files: Sequence[Path]) -> None:
    """Warn, before the work, of width limits that cannot be measured at the scale of the first image that has one.

    Args:
        sizes: how the sizes of cracks become millimetres, and their limits.
        files: the images.
    """
    scale = _first_scale(sizes, files) if sizes.limits else None
    if scale and (why := too_fine(sizes.limits, scale.mm_per_pixel, sizes.distance)):
        narrowest = metric_text(scale.millimetres(NARROWEST))
        logger.warning("widths below %s (%g px) cannot be measured; %s", narrowest, NARROWEST, why)


def _first_scale(sizes: SizesConfig, files: Sequence[Path]) -> Scale | None:
    if sizes.mm_per_pixel is not None:
        return Scale(sizes.mm_per_pixel)
    scales = (_scale_of(sizes, file) for file in itertools.islice(files, FIRST))
    return next((scale for scale in scales if scale), None)


def _scale_of(sizes: SizesConfig, file: Path) -> Scale | None:
    with contextlib.suppress(ImageError, OSError):  # the run says what is wrong with a file
        if is_orthomosaic(file):
            with open_orthomosaic(file) as mosaic:
                return mosaic.scale()
        return read_capture(file).scale(sizes)
    return None


def warn_of_scales(sizes: SizesConfig, missing: int, images: int) -> None:
    """Warn, once for a run, of images whose sizes cannot be had in millimetres."""
    if missing and sizes.distance is not None:
        has = "has" if missing == 1 else "have"
        where = f"{missing:,} of {counted(images, 'image')} {has} no focal length in EXIF"
        logger.warning("%s: sizes in pixels, no width class; --mm-per-pixel sets the scale of all images", where)
