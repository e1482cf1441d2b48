"""``xai.py --image ortho.tif --style mask``: the regions of orthomosaics, as polygons for GIS programs."""

from __future__ import annotations

import logging
from pathlib import Path

from crackcam.batch.orthomosaics import Survey
from crackcam.batch.tasks import model_settings
from crackcam.cli.console import print_json, say
from crackcam.cli.documents import manifest, prepare_output
from crackcam.cli.runs import ExplainRun, PredictRun
from crackcam.config import OUTPUTS
from crackcam.data.scene import ImageError
from crackcam.data.selection import Selection
from crackcam.data.windows import is_orthomosaic
from crackcam.errors import UserError
from crackcam.explain.explainer import Explainer
from crackcam.files import write_json
from crackcam.models.loaded import LoadedModel
from crackcam.models.tiles import reads_tiles
from crackcam.text import confidence_text, counted, percent
from crackcam.types import Prediction

logger = logging.getLogger(__name__)


def check_files(asked: PredictRun | ExplainRun) -> None:
    """Check what settings mean depends on the files: orthomosaics are resumed one by one, and know their scale.

    Raises:
        UserError: a setting is only for orthomosaics, and there are none.
    """
    mosaics = _maps_regions(asked) and any(map(is_orthomosaic, asked.images.image or ()))
    if asked.output.resume and not asked.output.all and not mosaics:
        raise UserError("--resume continues a run of --all: add it")
    if isinstance(asked, ExplainRun) and asked.sizes.lacks_scale and not mosaics:
        raise UserError("--width-limits are in mm: add --mm-per-pixel, or --distance and --sensor-width")


def _maps_regions(asked: PredictRun | ExplainRun) -> bool:
    return isinstance(asked, ExplainRun) and asked.explain.style == "mask"


def surveyed(asked: ExplainRun, network: LoadedModel, selection: Selection) -> list[Path]:
    """The orthomosaics whose regions are asked for; none where the network sees them as plain images.

    Raises:
        UserError: there are other images among them; or other results are asked for.
    """
    if not _maps_regions(asked) or asked.output.all or not reads_tiles(network):
        return []
    files = [path for _, path in selection.listed]
    found = [path for path in files if is_orthomosaic(path)]
    if not found:
        return []
    if len(found) < len(files):
        raise UserError(f"{found[0]} is an orthomosaic, other files are not: name them in two runs, or add --all")
    given = asked.analysis.given("anatomy", "verify", "masks", "metrics", "save_maps") + asked.output.given("report")
    if given:
        raise UserError(f"{given[0]} is for images that fit in memory; {found[0]} is an orthomosaic")
    if len(found) > 1 and asked.output.output:
        raise UserError(f"--output names one figure; these are {counted(len(found), 'orthomosaic')}")
    if len({path.stem for path in found}) < len(found):
        raise UserError("two of the orthomosaics have the same name: their results would overwrite each other")
    return found


def survey(asked: ExplainRun, explainer: Explainer, selection: Selection, target: int | None, files: list[Path]) -> int:
    """Find the regions of orthomosaics, and write an overview, polygons and a document of each."""
    network = explainer.network
    how = Survey(explainer, target, asked.sizes, asked.runtime.batch_size, model_settings(network))
    paths = [asked.output.output or OUTPUTS / f"xai_{file.stem}_{explainer.method}.png" for file in files]
    prepare_output(asked.output.resume, *paths, inputs=files)
    documents = []
    for file, path in zip(files, paths, strict=True):
        state = path.with_name(f"{path.name}.part")
        if asked.output.resume and not state.exists():
            logger.info("nothing to resume at %s; starting from the beginning", state)
        try:
            prediction, found = how.work(file, path, state, asked.output.resume)
        except ImageError as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        row = {**prediction.to_dict(asked.predict.top_k), **found}
        document = {
            **manifest(network, asked, selection, [row]),
            "method": explainer.method,
            "target": row["target"],
            **asked.sizes.as_dict(),
            "picture": str(path),
        }
        write_json(path.with_suffix(".json"), document)
        documents.append(document)
        if not asked.output.json:
            _say(prediction, row, path)
    if asked.output.json:
        print_json(documents[0] if len(documents) == 1 else documents)
    return 0


def _say(prediction: Prediction, row: dict, path: Path) -> None:
    best = f"{prediction.label} {confidence_text(prediction.confidence)}"
    length = row["length"] if row["mm_per_pixel"] is None else row["length"] * row["mm_per_pixel"] / 1000
    unit = "px" if row["mm_per_pixel"] is None else "m"
    found = f"{counted(len(row['regions']), 'region')}, {length:,.1f} {unit} long together, {percent(row['share'])}"
    say(f"{prediction.path}  {best}, {found}")
    say(f"wrote {', '.join([str(path), str(path.with_suffix('.json')), *row['geojson']])}")
