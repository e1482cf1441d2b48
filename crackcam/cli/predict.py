"""``inference.py``: from settings to predictions, figures and tables."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from crackcam import distributed
from crackcam.batch.folders import completed, process
from crackcam.batch.orthomosaics import predict_orthomosaic
from crackcam.batch.streaming import Rows, Run
from crackcam.batch.tasks import PredictTask
from crackcam.classifier import Loader
from crackcam.cli.console import print_json, say
from crackcam.cli.documents import manifest, prepare_output
from crackcam.cli.orthomosaics import check_files
from crackcam.cli.runs import ExplainRun, PredictRun
from crackcam.config import OUTPUTS
from crackcam.data.images import DecodedImage, read_image
from crackcam.data.scene import ImageError
from crackcam.data.selection import Selection, read_selection, select
from crackcam.data.windows import Windowed, open_orthomosaic, read_or_leave
from crackcam.errors import UserError
from crackcam.explain.detectors import Detector
from crackcam.files import write_json
from crackcam.models.loaded import LoadedModel
from crackcam.models.registry import is_detector
from crackcam.models.tiles import predict_images, reads_tiles
from crackcam.render import coco, figures, report
from crackcam.render.figures import Tile, detection_tile, model_label
from crackcam.render.overlays import thumbnail
from crackcam.text import confidence_text, counted, percent
from crackcam.types import Prediction

logger = logging.getLogger(__name__)

SUMMARY = ("type", "split", "pictures", "unreadable", "accuracy", "table")  # of --all --json
FINDINGS = ("title", "findings", "mask_images", "findings_table", "geojson", "coco", "report")  # where there are some
WRITTEN = ("overlays", "mask_images", "findings_table", "geojson", "coco", "report", "save-maps")  # names of files
LISTED_BOXES = 5
REDUCED_SIDE = 1024  # pixels of an orthomosaic in figures and reports


def run(asked: PredictRun) -> int:
    """Do what the settings ask for; returns the exit code.

    Raises:
        UserError: usage or input error.
    """
    check_processes(asked)
    check_files(asked)
    if is_detector(asked.model.arch):
        return _draw_boxes(asked)
    network = as_asked(Loader(asked.model, asked.runtime, asked.images.seed).load(), asked)
    selection = select(asked.images, network.card, every_class=asked.output.all)
    kind = "predictions" if asked.output.all else "inference"
    default = OUTPUTS / f"{kind}_{selection.name}{'.csv' if asked.output.all else '.png'}"
    path = asked.output.output or default
    prepare_output(asked.output.resume, path, asked.output.report, inputs=selection.paths)
    if asked.output.all:
        return _score_all(asked, network, selection, path)
    return _draw_grid(asked, network, selection, path)


def as_asked(network: LoadedModel, asked: PredictRun | ExplainRun) -> LoadedModel:
    """The model, as it is to see large images."""
    if asked.images.resize:
        return network.without_tiles()
    if network.card.head == "multiscale" and network.path and network.path.suffix == ".onnx":
        logger.info("an ONNX file takes images of one size: large images are resized as a whole, not read in tiles")
    return network


def check_processes(asked: PredictRun | ExplainRun) -> None:
    """Raises UserError where several processes are started for what only one can do."""
    if distributed.world_size() > 1 and not asked.output.all:
        raise UserError("several processes split the images of --all: add it, or run without torchrun")


# -- a few images ----------------------------------------------------------------------------------------------------


def _draw_grid(asked: PredictRun, network: LoadedModel, selection: Selection, path: Path) -> int:
    true, top_k = selection.true, asked.predict.top_k
    read = read_or_leave if reads_tiles(network) else read_image
    images = read_selection(asked.images, selection, read)
    predictions, arrays = _predict(asked, network, images, true)
    tiles = [
        Tile(thumbnail(array), image.path.name, prediction.top(top_k), true)
        for image, array, prediction in zip(images, arrays, predictions, strict=True)
    ]
    correct = sum(not prediction.wrong for prediction in predictions)
    of_all = f"{correct} of {counted(len(tiles), 'image')} correct"
    title = f"{true}: {of_all}" if true else "Predictions"
    figures.prediction_grid(path, title, tiles, top_k, model_label(network.card.arch, network.source))
    rows = [prediction.to_dict(top_k) for prediction in predictions]
    document = {**manifest(network, asked, selection, rows), "picture": str(path)}
    if asked.output.report:
        report.write(asked.output.report, document, arrays)
        document["report"] = str(asked.output.report)
    write_json(path.with_suffix(".json"), document)
    if asked.output.json:
        print_json(document)
        return 0
    for prediction in predictions:
        mark = "   <- incorrect" if prediction.wrong else ""
        best = [f"{name} {confidence_text(value)}" for name, value in prediction.top(top_k or 1).items()]
        say(f"{prediction.path}  {', '.join(best)}{mark}")
    say(of_all if true else counted(len(tiles), "image"))
    say(", ".join(filter(None, [f"wrote {path}", f"{path.with_suffix('.json')}", document.get("report")])))
    return 0


def _predict(
    asked: PredictRun, network: LoadedModel, images: list[DecodedImage], true: str | None
) -> tuple[list[Prediction], list[np.ndarray]]:
    """The prediction of each image; and the image, (H, W, 3) uint8, of an orthomosaic reduced.

    Raises:
        UserError: an orthomosaic cannot be read.
    """
    arrays = [image.pixels for image in images if not isinstance(image.pixels, Windowed)]
    found = zip(*predict_images(network, arrays, asked.runtime.batch_size), strict=True)
    predictions, shown = [], []
    for image in images:
        if not isinstance(image.pixels, Windowed):
            probabilities, tiles = next(found)
            predictions.append(Prediction.of(network.card.classes, probabilities.tolist(), image.path, true, tiles))
            shown.append(image.pixels)
            continue
        try:
            prediction = predict_orthomosaic(network, image.path, asked.runtime.batch_size)
            with open_orthomosaic(image.path) as mosaic:
                shown.append(mosaic.reduced(REDUCED_SIDE))
        except ImageError as error:
            raise UserError(f"{image.path} cannot be read: {error}") from None
        predictions.append(replace(prediction, true=true))
    return predictions, shown


# -- all images ------------------------------------------------------------------------------------------------------


def _score_all(asked: PredictRun, network: LoadedModel, selection: Selection, path: Path) -> int:
    task = PredictTask(network, asked.predict.top_k, asked.runtime.batch_size)

    def write_report(_: dict, journals: Rows) -> dict:
        rows = list(map(task.line, journals()))
        readable, broken = ([row for row in rows if ("error" in row) == bad] for bad in (False, True))
        document = {**manifest(network, asked, selection, readable), "unreadable": broken}
        assert asked.output.report is not None
        report.write(asked.output.report, document)
        return {"report": str(asked.output.report)}

    writer = write_report if asked.output.report else None
    table = Run(path, selection.listed, asked.runtime.batch_size, task.settings, task.verb)
    document = completed(table, asked.output.resume, {"report": asked.output.report and str(asked.output.report)})
    if document is None:
        made = manifest(network, asked, selection, [])
        document = process(table, task, made, asked.output.resume, writer)
    return print_summary(document, asked)


def print_summary(document: dict | None, asked: PredictRun | ExplainRun) -> int:
    """What ``--all`` scored and wrote, in the first process."""
    if document is None or not distributed.is_main():
        return 0
    if asked.output.json:
        findings = FINDINGS if "findings" in document else ()
        print_json({name: document.get(name) for name in (*SUMMARY, *findings)})
        return 0
    scored, unreadable, accuracy = (document[name] for name in ("pictures", "unreadable", "accuracy"))
    correct = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    lost = f", {counted(unreadable, 'file')} not readable" if unreadable else ""
    say(f"{counted(scored, 'image')}{correct}{lost}")
    also = [document[name] for name in WRITTEN if document.get(name)]
    say("wrote " + ", ".join([document["table"], *also]))
    return 0


# -- detectors -------------------------------------------------------------------------------------------------------


def _draw_boxes(asked: PredictRun) -> int:
    """What a detector finds in a few images."""
    if asked.output.all:
        raise UserError("--all scores classes; for the boxes of many images: --image FOLDER --num 1000")
    if asked.output.report:
        raise UserError(f"--report is for classifiers; {asked.model.arch} is a detector")
    network = Loader(asked.model, asked.runtime, asked.images.seed).load()
    assert isinstance(network, Detector)
    threshold = asked.predict.score_threshold
    selection = select(asked.images, network.card)
    path = asked.output.output or OUTPUTS / f"inference_{selection.name}.png"
    coco_path = path.with_name(f"{path.stem}_coco.json")
    prepare_output(False, path, inputs=selection.paths)
    network.set_score_threshold(threshold)
    images = read_selection(asked.images, selection)
    predictions = [network.detect(image) for image in images]
    side = round(figures.DPI * figures.detection_side(len(images)))
    tiles = [
        detection_tile(image.pixels, prediction, thumbnail(image.pixels, side))
        for image, prediction in zip(images, predictions, strict=True)
    ]
    title, label = f"Boxes that score above {threshold:g}", model_label(network.card.arch, network.source)
    figures.detection_grid(path, title, tiles, model=label)
    rows = coco.rows(predictions)
    document = {**manifest(network, asked, selection, rows), "score_threshold": threshold}
    document |= {"picture": str(path), "coco": str(coco_path)}
    write_json(path.with_suffix(".json"), document)
    write_json(coco_path, coco.results(rows))
    if asked.output.json:
        print_json(document)
        return 0
    for prediction in predictions:
        boxes = prediction.detections
        best = ", ".join(f"{box.name} {percent(box.score)}" for box in boxes[:LISTED_BOXES]) or "nothing detected"
        more = f", and {len(boxes) - LISTED_BOXES} more" if len(boxes) > LISTED_BOXES else ""
        say(f"{prediction.path}  {best}{more}")
    say(f"wrote {path}, {path.with_suffix('.json')}, {coco_path}")
    return 0
