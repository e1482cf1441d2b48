"""Transfer learning from class folders to a checkpoint: linear probe, fine-tuning, calibration, evaluation.

:func:`train` is the whole of it. Its parts have a module each: :mod:`~crackcam.training.initial` (the model),
:mod:`~crackcam.training.probe`, :mod:`~crackcam.training.schedule`, :mod:`~crackcam.training.loop` (fine-tuning),
:mod:`~crackcam.training.calibration`, :mod:`~crackcam.training.evaluate`, :mod:`~crackcam.training.resume` and
:mod:`~crackcam.training.parallel` (several processes).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crackcam import distributed
from crackcam.classifier import Classifier
from crackcam.config import TrainConfig
from crackcam.data.duplicates import warn_of_duplicates
from crackcam.data.pixels import PixelSplit, concatenate, load_splits, of_machine, training_preprocessing
from crackcam.data.splits import plan_splits
from crackcam.data.synthetic.datasets import synthetic_split
from crackcam.data.synthetic.sample import write_sample_if_missing
from crackcam.data.verdict_tiles import VerdictTiles
from crackcam.data.verdicts import read_verdicts
from crackcam.errors import UserError
from crackcam.explain.thresholds import evidence_thresholds
from crackcam.files import check_writable
from crackcam.models import checkpoint, onnx
from crackcam.models.pretrained import WeightsOrigin
from crackcam.models.registry import pretrained_config
from crackcam.runtime import Runtime
from crackcam.text import percent
from crackcam.training import resume
from crackcam.training.area import calibrate_area
from crackcam.training.calibration import Reliability
from crackcam.training.evaluate import calibrate, evaluate_classes
from crackcam.training.history import Epoch, best_epoch
from crackcam.training.initial import InitialModel, build_model
from crackcam.training.loop import FineTuning
from crackcam.training.probe import linear_probe
from crackcam.training.schedule import Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished training run.

    Attributes:
        history: its epochs; number 0 is the linear probe, where there was one (not from random weights).
        metrics: as in the checkpoint: of the best epoch on the validation split, and of the scored split by its name;
            the temperature, and the number of near-duplicates of training images in each other split.
        split: name of the split that was scored: "test", or "val" where there is none.
        confusion: (classes, classes) int counts on that split, rows are true classes.
        reliability: confidence and accuracy on that split, binned.
        report: the scores per class as a table.
        probabilities: (N, classes) float32, of the images of that split.
        checkpoint: the file with the trained model.
        exported: the ONNX file; None where none was asked for.
        classifier: the trained model, calibrated, ready to predict and explain.
        origin: where the weights came from that training started with.
        splits: the images by split, as the model was trained and scored on them.

    Examples:
        >>> import crackcam
        >>> from crackcam.data.synthetic import write_sample
        >>> write_sample("photos", counts={"train": 6, "test": 2})
        16
        >>> config = crackcam.TrainConfig(data="photos", pretrained="none", image_size=32, epochs=1, workers=0)
        >>> result = crackcam.train(config)
        >>> [row.epoch for row in result.history], result.checkpoint.name
        ([1], 'model.safetensors')
    """

    history: list[Epoch]
    metrics: dict[str, Any]
    split: str
    confusion: np.ndarray
    reliability: Reliability
    report: str
    probabilities: np.ndarray = field(repr=False)
    checkpoint: Path
    exported: Path | None
    classifier: Classifier = field(repr=False)
    origin: WeightsOrigin
    splits: dict[str, PixelSplit] = field(repr=False)


def train(
    config: TrainConfig,
    *,
    on_epoch: Callable[[list[Epoch]], object] | None = None,
    on_result: Callable[[TrainResult], object] | None = None,
) -> TrainResult:
    """Train an image classifier on class folders, and write its checkpoint.

    Several processes, started by torchrun, train one model; all return, the main one alone writes files.

    Args:
        config: all settings.
        on_epoch: called after each epoch, the linear probe too, with the history so far; in the main process.
        on_result: called with the result before the state of the run is removed, so that a run that is killed
            meanwhile can be resumed; in the main process.

    Raises:
        UserError: a mistake in the settings or the data; or the loss becomes NaN or infinite.

    Examples:
        >>> import crackcam
        >>> from crackcam.data.synthetic import write_sample
        >>> write_sample("photos", counts={"train": 6, "test": 2})
        16
        >>> config = crackcam.TrainConfig(data="photos", pretrained="none", image_size=32, epochs=1, workers=0)
        >>> result = crackcam.train(config)
        >>> result.split, result.classifier.classes
        ('test', ['Negative', 'Positive'])
    """
    return Trainer(config, on_epoch, on_result).run()


class Trainer:
    """One training run; see :func:`train` for the arguments."""

    def __init__(
        self,
        config: TrainConfig,
        on_epoch: Callable[[list[Epoch]], object] | None = None,
        on_result: Callable[[TrainResult], object] | None = None,
    ) -> None:
        self.config, self.on_epoch, self.on_result = config, on_epoch, on_result
        self.history: list[Epoch] = []

    def run(self) -> TrainResult:
        """From the class folders to the checkpoint."""
        self.prepare()
        initial = self.build_model()
        self.load_data(initial)
        best = self.fit(initial)
        result = self.evaluate(best, self.calibrate())
        if distributed.is_main():
            if self.on_result:
                self.on_result(result)
            self.state.remove()  # last: a run that is killed before repeats what comes after its last epoch
        return result

    # -- before training ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check what can be checked at once; find the other processes, the files, and the state of a killed run."""
        config = self.config
        check_writable(config.output)
        if config.export:
            onnx.require(onnx.TO_WRITE)
        if config.sample:
            write_sample_if_missing(config.data)
        self.runtime = Runtime.of(config)
        distributed.start(self.runtime.device)
        self.made_for = pretrained_config(config.arch).preprocessing
        self.plan = plan_splits(config.data, config.val_fraction, config.seed, config.group_by)
        self.verdicts = self.plan_verdicts()
        path = resume.state_path(config.output)
        identity = resume.identity(config, self.plan, self.verdicts.file if self.verdicts else None)
        self.state = resume.StateFile(path, identity)
        self.resumed = distributed.broadcast_object(lambda: resume.read_state(path)) if config.resume else None
        if self.resumed:
            self.state.check(self.resumed)
        elif config.resume:
            if checkpoint.is_finished(config.output, self.plan.classes, config.data):
                raise UserError(
                    f"{config.output} is finished: nothing to resume; for more epochs start from it, with --pretrained "
                    f"{config.output} instead of --resume; without either it is trained anew"
                )
            logger.info("nothing to resume at %s; starting from the beginning", path)

    def plan_verdicts(self) -> VerdictTiles | None:
        """The photographs whose regions a person judged; None: none."""
        config, plan = self.config, self.plan
        if not (config.verdicts and config.verdict_images):
            return None
        others = [files for split, files in plan.files.items() if split != "train"]
        held_out = [path for files in others for paths in files.values() for path in paths]
        return VerdictTiles.plan(read_verdicts(config.verdicts), config.verdict_images, plan.classes, held_out)

    def build_model(self) -> InitialModel:
        """The model to start from; it becomes :attr:`loaded`."""
        origin = resume.read_origin(self.resumed) if self.resumed else None
        initial = build_model(self.config, self.plan, self.runtime, origin)
        self.loaded, self.origin = initial.loaded, initial.origin
        self.state = self.state.started_from(initial.origin)
        card = self.loaded.card
        logger.info("model: %s at %s px, %s", card.arch, card.image_size, card.pretrained)
        logger.info("runtime: %s", self.runtime)
        return initial

    def load_data(self, initial: InitialModel) -> None:
        """Decode the splits at the size of training, which may be smaller than the model's; add synthetic images."""
        config, preprocessing = self.config, self.loaded.preprocessing
        self.trained_at = training_preprocessing(self.plan.files["train"], preprocessing, self.made_for.size)
        self.splits = load_splits(self.plan, self.trained_at, config.workers)
        self.plan.restrict({name: split.paths for name, split in self.splits.items()})
        for line in self.plan.summary():
            logger.info(line)
        if self.verdicts:
            train, verdicts = self.splits["train"], self.verdicts
            self.splits["train"] = of_machine(
                lambda: concatenate(train, verdicts.read(self.trained_at, self.plan.classes))
            )
            self.loaded.card.training["verdict_tiles"] = dict(self.verdicts.counts)
        self.near_duplicates = distributed.broadcast_object(lambda: warn_of_duplicates(self.splits))
        self.val = self.splits["val"]
        if initial.mix:
            logger.info("synthetic images: %s of each epoch (disable: --mix-sample 0)", percent(initial.mix))
            val, size = self.val, self.trained_at.size
            self.val = of_machine(lambda: concatenate(val, synthetic_split(val, config.seed, size)))
        self.mix = initial.mix
        sizes = [*map(len, self.splits.values())]
        distributed.check_identical(files=self.state.run["files"], images=sizes, weights=initial.origin.kind)

    # -- training ----------------------------------------------------------------------------------------------------

    def fit(self, initial: InitialModel) -> Epoch:
        """Linear probe where the weights are pretrained, then fine-tuning; returns the best epoch."""
        config, train = self.config, self.splits["train"]
        schedule = Schedule.of(config, initial, len(train), self.trained_at.size)
        self.epochs = len(schedule.sizes)
        try:
            if not self.resumed and not config.multiscale and (config.epochs == 0 or not initial.origin.random):
                cache = config.output.with_suffix(".features")
                self.history.append(linear_probe(self.loaded, train, self.val, config.batch_size, cache))
                self.record(self.history[0])
            tuning = FineTuning(self.loaded, schedule, train, self.val)
            return tuning.run(self.history, self.state, self.resumed, self.record)
        except KeyboardInterrupt:
            if self.history:
                best = best_epoch(self.history).epoch
                logger.info("kept the best epoch so far, %s, in %s; continue with --resume", best, config.output)
            raise

    def record(self, epoch: Epoch) -> None:
        """Log an epoch; write a checkpoint where it is the best one so far."""
        logger.info(epoch.summary(self.epochs))
        if not distributed.is_main():
            return
        if self.on_epoch:
            self.on_epoch(self.history)
        if epoch.best:
            self.loaded.card.metrics = epoch.as_metrics()
            self.write_checkpoint()

    def write_checkpoint(self, half: bool = False) -> None:
        """Write the model as it is; the first time, a checkpoint of another model is kept under another name."""
        if self.loaded.path is None and not self.resumed:
            checkpoint.keep_previous(self.config.output, self.loaded.card)
        checkpoint.save(self.config.output, self.loaded.model, self.loaded.card, half)
        self.loaded.path = self.config.output

    # -- after training ----------------------------------------------------------------------------------------------

    def calibrate(self) -> float:
        """Calibrate the model on validation images as inference will see them, synthetic ones too; the temperature."""
        config, size = self.config, self.loaded.preprocessing.size
        if self.trained_at != self.loaded.preprocessing:
            self.splits |= load_splits(self.plan, self.loaded.preprocessing, config.workers, ("val", "test"))
        self.val = self.splits["val"]
        if self.mix:
            val = self.val
            self.val = of_machine(lambda: concatenate(synthetic_split(val, config.seed, size), val))
        return calibrate(self.loaded, self.val, config.batch_size)

    def val_groups(self) -> list[PixelSplit]:
        """Validation images, and the synthetic ones in front of them where there are any."""
        count = len(self.val) // (2 if self.mix else 1)
        parts = (slice(0, count), slice(count, None)) if self.mix else (slice(None),)
        return [self.val.part(rows) for rows in parts]

    def evaluate(self, best: Epoch, temperature: float) -> TrainResult:
        """Score the test split, else the validation split, once; write the final checkpoint and its export."""
        config, card = self.config, self.loaded.card
        name = "test" if len(self.splits.get("test", ())) else "val"
        found = evaluate_classes(self.loaded, self.splits[name], config.batch_size, temperature)
        duplicates = {"near_duplicates": self.near_duplicates}
        card.metrics = {**best.as_metrics(), "temperature": temperature, **duplicates, name: found.metrics}
        exported = None
        if distributed.is_main():
            groups = self.val_groups()
            first = groups[0]  # the synthetic images where there are any: they have no padding
            card.thresholds = evidence_thresholds(self.loaded, first.pixels, first.labels, config.batch_size)
            card.area = calibrate_area(self.loaded, groups, config.batch_size, config.seed)
            self.write_checkpoint(config.half)
            if config.export:
                exported = config.output.with_suffix(".onnx")
                onnx.export(exported, self.loaded, self.splits["val"].pixels[: config.batch_size])
        return TrainResult(
            history=self.history,
            metrics=card.metrics,
            split=name,
            confusion=found.confusion,
            reliability=found.reliability,
            report=found.text,
            probabilities=found.probabilities,
            checkpoint=config.output,
            exported=exported,
            classifier=Classifier.of(self.loaded.model, card, self.loaded.runtime, self.loaded.path),
            origin=self.origin,
            splits=self.splits,
        )
