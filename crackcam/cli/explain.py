"""``xai.py``: from settings to heatmaps, figures, scores and tables."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

from crackcam.batch.folders import completed, process
from crackcam.batch.streaming import Run
from crackcam.batch.tasks import ExplainTask
from crackcam.classifier import Loader
from crackcam.cli import findings
from crackcam.cli.console import print_json, say
from crackcam.cli.documents import manifest, prepare_output, table_beside
from crackcam.cli.orthomosaics import check_files, survey, surveyed
from crackcam.cli.predict import as_asked, check_processes, print_summary
from crackcam.cli.runs import ExplainRun
from crackcam.cli.sheet import Sheet
from crackcam.config import OUTPUTS
from crackcam.data.images import DecodedImage
from crackcam.data.masks import read_masks
from crackcam.data.selection import Selection, read_selection, select
from crackcam.data.verdicts import read_verdicts
from crackcam.errors import UserError
from crackcam.evaluation import faithfulness, mask_scores, verification
from crackcam.evaluation.regions import regions_table
from crackcam.explain.anatomy import gradcam_steps
from crackcam.explain.detectors import Detector, method_settings, of_class
from crackcam.explain.explainer import PREDICTED, Comparison, Explainer, compare
from crackcam.explain.explanation import Explanation
from crackcam.files import write_csv, write_json
from crackcam.methods import BEST, NAMED
from crackcam.models.loaded import LoadedModel
from crackcam.models.output_stride import dilate
from crackcam.models.registry import is_detector
from crackcam.models.target_layers import grid_layers
from crackcam.render import captions, coco, figures
from crackcam.render.figures import Tile
from crackcam.render.overlays import choose_style, thumbnail
from crackcam.text import counted
from crackcam.types import Prediction
from pytorch_grad_cam.checks import NoEvidenceWarning

logger = logging.getLogger(__name__)


def run(asked: ExplainRun) -> int:
    """Do what the settings ask for; returns the exit code.

    Raises:
        UserError: usage or input error.
    """
    with warnings.catch_warnings(action="ignore", category=NoEvidenceWarning):  # figures and reports say so
        return _run(asked)


def _run(asked: ExplainRun) -> int:
    check_processes(asked)
    check_files(asked)
    choose_style(asked.explain.style, asked.explain.colormap)  # before anything is loaded
    if asked.output.verdicts:
        name = "images" if asked.images.image else asked.images.type or "all"
        findings.check_verdicts(asked.output.verdicts, asked.output.output or _default_path(asked, name))
    if is_detector(asked.model.arch):
        return _explain_boxes(asked)
    network = as_asked(Loader(asked.model, asked.runtime, asked.images.seed).load(layers=True), asked)
    if asked.analysis.verify or asked.analysis.anatomy:  # about one heatmap in one piece
        network = network.without_tiles()
    if asked.analysis.list_layers:
        return _list_layers(asked, network)
    explain = asked.explain
    if explain.method == (BEST,) and (asked.analysis.anatomy or asked.analysis.verify):
        explain = replace(explain, method=("gradcam",))
    explainers = Explainer.of(network, explain, asked.runtime.batch_size)
    selection = select(asked.images, network.card, every_class=asked.output.all)
    target = _target(asked, explainers[0], selection)
    findings.warn_of_scale(asked.sizes, selection.paths)
    if mosaics := surveyed(asked, network, selection):
        return survey(asked, explainers[0], selection, target, mosaics)
    path = asked.output.output or _default_path(asked, selection.name)
    prepare_output(asked.output.resume, path, asked.output.report, inputs=_inputs(asked, selection, path))
    if asked.output.all:
        return _explain_all(asked, explainers[0], selection, target, path)
    images = read_selection(asked.images, selection)
    if asked.analysis.save_maps:
        check_names(images)
    if asked.analysis.anatomy:
        return _draw_anatomy(asked, explainers[0], selection, images[0], target, path)
    return _explain_some(asked, explainers, selection, images, target, path)


def _target(asked: ExplainRun, explainer: Explainer, selection: Selection) -> int | None:
    """Index of the class to explain; None: the one predicted.

    Regions are asked for of what is there: of the only class that is no absence, whatever is predicted.

    Raises:
        UserError: no such class; or regions are asked for of one that has none.
    """
    card, default = explainer.network.card, selection.true or PREDICTED
    if asked.explain.style == "mask" or asked.analysis.masks:
        present = card.present
        default = present[0] if len(present) == 1 else default if default in present else PREDICTED
    target = explainer.target_index(default)
    if asked.explain.style == "mask" and target is not None and card.classes[target] in card.absences:
        raise UserError(
            f"{card.classes[target]} is the absence of the other classes, so it has no regions: leave --target out, "
            "or --style mask"
        )
    return target


def _inputs(asked: ExplainRun, selection: Selection, path: Path) -> list[Path]:
    """The images; and the path, where it is that of a mask of one, which is named like it."""
    masks = asked.analysis.masks
    is_mask = (
        masks
        and path.resolve().is_relative_to(masks.resolve())
        and path.stem in {image.stem for image in selection.paths}
    )
    return [*selection.paths, path] if is_mask else selection.paths


def _default_path(asked: ExplainRun, name: str) -> Path:
    several = asked.explain.several
    kind = (
        "anatomy"
        if asked.analysis.anatomy
        else "scores"
        if asked.analysis.masks
        else "compared"
        if several
        else asked.explain.method[0]
    )
    return OUTPUTS / f"xai_{name}_{kind}.{'csv' if asked.output.all else 'png'}"


def check_names(images: list[DecodedImage]) -> None:
    """Raises UserError where the heatmaps of two images would have one name."""
    if len({image.path.stem for image in images}) < len(images):
        raise UserError("two of the images have the same name: their heatmaps would overwrite each other")


def _list_layers(asked: ExplainRun, network: LoadedModel) -> int:
    """Print the layers that ``--layer`` takes."""
    size, stride = network.preprocessing.size, asked.explain.stride
    model = dilate(network.model, stride, size) if stride else network.model
    found, default = grid_layers(model, size)
    for name, grid in found.items():
        mark = "  (default)" if name == default else ""
        kind = type(model.get_submodule(name)).__name__
        say(f"{name}  {kind}  {grid.channels} x {grid.height} x {grid.width}{mark}")
    return 0


# -- a few images ----------------------------------------------------------------------------------------------------


def _explain_some(
    asked: ExplainRun,
    explainers: list[Explainer],
    selection: Selection,
    images: list[DecodedImage],
    target: int | None,
    path: Path,
) -> int:
    """Figures of a few images, and what else is asked about their heatmaps."""
    network, analysis = explainers[0].network, asked.analysis
    masks = read_masks(analysis.masks, images) if analysis.masks else []
    compared = compare(explainers, images, target, selection.true, timed=analysis.verify)
    sheet = Sheet(asked, network, compared, masks)
    sheet.draw(path, _title(compared, target))
    findings.warn_of_scales(asked.sizes, sum(row.get("mm_per_pixel") is None for row in sheet.rows), len(sheet.rows))
    settings = next(iter(compared.explainers.values())).config
    document = {
        **manifest(network, asked, selection, sheet.rows),
        "methods": {method: each.layer_names for method, each in compared.explainers.items()},
        "target": PREDICTED if target is None else network.card.classes[target],
        "stride": settings.stride,
        "scales": list(settings.scales),
        "fuse": settings.fuse,
        "refine": settings.refine,
        **settings.smoothing,
        **(asked.sizes.as_dict() if settings.style == "mask" else {}),
        "picture": str(path),
        "seconds": {method: round(compared.seconds[method], 3) for method in compared.explainers},
    }
    if settings.style == "mask" and not asked.explain.several:
        document["findings_table"] = findings.write_table(asked, network, sheet.rows, table_beside(path, "findings"))
    tables = []
    if analysis.masks:
        scores = mask_scores.compare_masks(
            [image.pixels for image in images], masks, sheet.heatmaps, sheet.known_thresholds
        )
        document["scores"] = [row.as_row() for row in scores]
        document["table"] = write_csv(path.with_suffix(".csv"), document["scores"])
        tables.append(mask_scores.mask_table(scores))
    if analysis.metrics:
        faithful = _score_faithfulness(compared, asked.runtime.batch_size)
        document["metrics"] = [row.as_row() for row in faithful]
        document["metrics_table"] = write_csv(table_beside(path, "metrics"), document["metrics"])
        files = [row["file"] for row in sheet.rows]
        by_image = [row for method in faithful for row in method.image_rows(files)]
        document["metrics_images_table"] = write_csv(table_beside(path, "metrics_images"), by_image)
        tables.append(faithfulness.faithfulness_table(faithful))
    if analysis.verify:
        comparisons = _verify(compared)
        document["verified"] = [comparison.as_row() for comparison in comparisons]
        tables.append(verification.verification_table(comparisons))
    if asked.output.report:
        sheet.write_report(asked.output.report, document)
    return _finish(asked, document, tables)


def _title(compared: Comparison, target: int | None) -> str:
    explainers = compared.explainers
    network = next(iter(explainers.values())).network
    name = "the predicted class" if target is None else network.card.classes[target]
    return captions.describe({method: each.layer_names for method, each in explainers.items()}, name)


def _score_faithfulness(compared: Comparison, batch_size: int) -> list[faithfulness.ScoredHeatmaps]:
    logger.info("scoring the heatmaps and the model-free baselines against the model: a hundred forward passes each")
    if any(prediction.tiles > 1 for prediction in compared.predictions):
        logger.info("--metrics changes parts of the network's own input: large images are resized for it")
    functions = {method: each.as_function() for method, each in compared.explainers.items()}
    explained = next(iter(compared.explainers.values())).explained
    return faithfulness.compare_faithfulness(explained, functions, compared.pixels, compared.targets, batch_size)


def _verify(compared: Comparison) -> list[verification.Comparison]:
    explained = next(iter(compared.explainers.values())).explained
    runs = [
        verification.MethodRun(
            method, each.combination.technique.layers, compared.maps[method], compared.seconds[method]
        )
        for method, each in compared.explainers.items()
    ]
    return verification.verify(explained, runs, compared.pixels, compared.targets)


def _finish(asked: ExplainRun, document: dict, tables: list[str]) -> int:
    """Write the JSON file beside the figure, and the table of regions; print tables, and what was written."""
    path = Path(document["picture"])
    if asked.explain.style == "mask":
        document["found_table"] = write_csv(table_beside(path, "found"), regions_table(document["pictures"]))
    write_json(path.with_suffix(".json"), document)
    if asked.output.json:
        print_json(document)
        return 0
    for table in tables:
        print(table)
    written = [name for key, name in document.items() if key.endswith(("table", "report"))]
    save_maps = asked.analysis.save_maps if not asked.analysis.anatomy else None
    also = f", and heatmaps in {save_maps}" if save_maps else ""
    say(f"wrote {', '.join([str(path), str(path.with_suffix('.json')), *written])}{also}")
    return 0


# -- anatomy ---------------------------------------------------------------------------------------------------------


def _draw_anatomy(
    asked: ExplainRun,
    explainer: Explainer,
    selection: Selection,
    image: DecodedImage,
    target: int | None,
    path: Path,
) -> int:
    """Draw the steps of Grad-CAM on one image."""
    network, layer = explainer.network, explainer.combination.technique.layers[0]
    pixels = network.to_pixels([image.pixels])
    probabilities = network.all_probabilities(pixels, 1)[0]
    prediction = Prediction.of(network.card.classes, probabilities.tolist(), image.path, selection.true)
    index = int(probabilities.argmax()) if target is None else target
    steps = gradcam_steps(explainer.explained, layer, explainer.as_explained(pixels, [image.pixels]), index)
    style = choose_style(asked.explain.style, asked.explain.colormap)
    rows = network.preprocessing.inside(*image.pixels.shape[:2])
    explanation = explainer.explanation(image.pixels, prediction, index, steps.heatmap[rows])
    tile = Tile(thumbnail(image.pixels), image.path.name, prediction.top(asked.predict.top_k), selection.true)
    title = f"Grad-CAM at {layer.name}, {tile.name}: {explanation.target}"
    shown = figures.AnatomySteps(
        explanation.target,
        steps.activations.numpy(),
        steps.gradients.numpy(),
        steps.weights.numpy(),
        steps.signed.numpy(),
        explanation.draw(style, beside=False),
    )
    figures.anatomy(path, title, tile, shown, figures.model_label(network.card.arch, network.source))
    row = {
        **prediction.to_dict(asked.predict.top_k),
        "target": explanation.target,
        "weights": [round(float(weight), 8) for weight in steps.weights],
    }
    document = {**manifest(network, asked, selection, [row]), "layer": layer.name, "picture": str(path)}
    return _finish(asked, {**document, "stride": asked.explain.stride}, [])


# -- all images ------------------------------------------------------------------------------------------------------


def _explain_all(asked: ExplainRun, explainer: Explainer, selection: Selection, target: int | None, path: Path) -> int:
    save_maps, top_k, output = asked.analysis.save_maps, asked.predict.top_k, asked.output
    if output.verdicts:
        findings.check_verdicts(output.verdicts, path)
    verdicts = read_verdicts(output.verdicts).of_files(selection.paths) if output.verdicts else None
    task = ExplainTask(explainer, target, path.with_suffix(""), save_maps, top_k, asked.sizes, verdicts)
    run = Run(path, selection.listed, asked.runtime.batch_size, task.settings, task.verb)
    document = completed(run, output.resume, {"report": output.report and str(output.report), "title": output.title})
    if document is None:
        own = {
            name: value
            for name, value in task.settings.items()
            if name not in ("weights", "device", "precision", "engine")
        }
        made = {
            **manifest(explainer.network, asked, selection, []),
            **own,
            "layers": explainer.layer_names,
            "overlays": str(task.overlays),
            **({"mask_images": str(task.mask_images)} if task.measures else {}),
        }
        document = process(
            run, task, made, output.resume, findings.handover(asked, task, run) if task.measures else None
        )
    if document and "without_scale" in document:
        findings.warn_of_scales(asked.sizes, document["without_scale"], document["pictures"])
    return print_summary(document, asked)


# -- detectors -------------------------------------------------------------------------------------------------------


def _explain_boxes(asked: ExplainRun) -> int:
    """Evidence for the boxes of a detector: of an image's together, or of one class."""
    arch = str(asked.model.arch)
    given = asked.analysis.given("anatomy", "verify", "list_layers", "masks", "metrics")
    given += asked.output.given("report", "all")
    if given:
        raise UserError(f"{given[0]} is for classifiers; {arch} is a detector")
    config = method_settings(asked.explain, arch)
    asked = replace(asked, explain=config)
    network = Loader(asked.model, asked.runtime, asked.images.seed).load()
    assert isinstance(network, Detector)
    layers = network.find_layers(config.layer)
    selection = select(asked.images, network.card)
    kind = "compared" if config.several else config.method[0]
    path = asked.output.output or OUTPUTS / f"xai_{selection.name}_{kind}.png"
    prepare_output(False, path, inputs=selection.paths)
    network.set_score_threshold(asked.predict.score_threshold)
    images = read_selection(asked.images, selection)
    predictions = _detected(asked, network, images)
    found = [(image, boxes) for image, boxes in zip(images, predictions, strict=True) if boxes.detections]
    if asked.analysis.save_maps:
        check_names([image for image, _ in found])
    explained: list[list[Explanation]] = []
    for image, prediction in found:
        boxes = counted(len(prediction.detections), "box", "boxes")
        logger.info("%s: explaining %s by %s", image.path, boxes, ", ".join(config.method))
        explained.append(network.explain_boxes(image, prediction, config, layers))
    sheet = Sheet.of_boxes(asked, network, explained)
    findings.warn_of_scales(asked.sizes, sum(row.get("mm_per_pixel") is None for row in sheet.rows), len(sheet.rows))
    methods = {name: list(layers) if NAMED[name].uses_layers else [] for name in config.method}
    sheet.draw_boxes(path, captions.describe(methods, config.target or "the boxes"))
    with_boxes = [row for row in coco.rows(predictions) if row["detections"]]
    rows = [{**row, "maps": drawn["maps"]} for row, drawn in zip(with_boxes, sheet.rows, strict=True)]
    document = {
        **manifest(network, asked, selection, rows),
        "methods": methods,
        "target": config.target,
        "score_threshold": asked.predict.score_threshold,
        "eigen_smooth": config.eigen_smooth,
        "refine": config.refine,
        "picture": str(path),
    }
    return _finish(asked, document, [])


def _detected(asked: ExplainRun, network: Detector, images: list[DecodedImage]) -> list[Prediction]:
    """The boxes of the target in each image; there is one at least."""
    target, threshold = asked.explain.target, asked.predict.score_threshold
    index = None if target in (None, PREDICTED) else network.card.class_index(str(target))
    name = "box" if index is None else str(target)
    predictions = [of_class(network.detect(image), index) for image in images]
    for prediction in predictions:
        if not prediction.detections:
            logger.warning("%s: no %s scores above %g", prediction.path, name, threshold)
    if not any(prediction.detections for prediction in predictions):
        raise UserError(f"no {name} to explain: lower --score-threshold, which is {threshold:g}")
    return predictions
