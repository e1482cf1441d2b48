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
from crackcam.data.capture import FULL_FRAME, Capture, read_capture
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


def warn_of_scale(sizes: SizesConfig, files: Sequence[Path]) -> None:
    """Log, before the work, the scale of the first image that has one; warn of limits that are too fine for it.

    Args:
        sizes: how the sizes of cracks become millimetres, and their limits.
        files: the images.
    """
    scale = _first_scale(sizes, files)
    if sizes.limits and scale and (why := too_fine(sizes.limits, scale.mm_per_pixel, sizes.distance)):
        narrowest = metric_text(scale.millimetres(NARROWEST))
        logger.warning("widths below %s (%g px) cannot be measured; %s", narrowest, NARROWEST, why)


def _first_scale(sizes: SizesConfig, files: Sequence[Path]) -> Scale | None:
    if sizes.mm_per_pixel is not None:
        return Scale(sizes.mm_per_pixel)
    if sizes.distance is None and not sizes.limits:
        return None
    scales = (_scale_of(sizes, file) for file in itertools.islice(files, FIRST))
    return next((scale for scale in scales if scale), None)


def _scale_of(sizes: SizesConfig, file: Path) -> Scale | None:
    with contextlib.suppress(ImageError, OSError):  # the run says what is wrong with a file
        if is_orthomosaic(file):
            with open_orthomosaic(file) as mosaic:
                return mosaic.scale()
        capture = read_capture(file)
        if scale := capture.scale(sizes):
            _log_scale(sizes, file, capture, scale)
        return scale
    return None


def _log_scale(sizes: SizesConfig, file: Path, capture: Capture, scale: Scale) -> None:
    assert sizes.sensor_width is not None
    focal_length, known = capture.focal_length(sizes.sensor_width), capture.sensor_width()
    logger.info("%s: focal length %g mm, %.3g mm per pixel", file.name, focal_length, scale.mm_per_pixel)
    if known and sizes.sensor_width != FULL_FRAME and not 0.8 < known / sizes.sensor_width < 1.25:
        logger.warning(
            "EXIF of %s gives a focal length of %g mm that equals %g mm on a sensor 36 mm wide: its sensor would be "
            "%.3g mm wide, not %g mm; all sizes depend on it",
            file.name,
            capture.focal_length_mm,
            capture.focal_length_35mm,
            known,
            sizes.sensor_width,
        )


def warn_of_scales(sizes: SizesConfig, missing: int, images: int) -> None:
    """Warn, once for a run, of images whose sizes cannot be had in millimetres."""
    if missing and sizes.distance is not None:
        has = "has" if missing == 1 else "have"
        where = f"{missing:,} of {counted(images, 'image')} {has} no focal length in EXIF"
        logger.warning("%s: sizes in pixels, no width class; --mm-per-pixel sets the scale of all images", where)
