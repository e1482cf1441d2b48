"""The state of a training run, from which a killed run is resumed: all that the next epoch depends on.

    weights/model.resume             after the last epoch: model, optimizer, schedule, history, and the best weights
    weights/model.resume.previous    after the epoch before, should the last one be damaged

Both are written under another name and renamed, so that a kill at any moment leaves whole files. The best weights are
part of the state: no kill between two files can separate them. Random numbers need no keeping: every epoch draws from
generators seeded with its own number, every image from one seeded with its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from crackcam.config import TrainConfig
from crackcam.data.splits import DataSplits
from crackcam.data.verdicts import VerdictFile
from crackcam.errors import UserError
from crackcam.files import remove_temporary_files, write_atomically
from crackcam.models.checkpoint import read_pickle
from crackcam.models.pretrained import WeightsOrigin
from crackcam.text import counted

logger = logging.getLogger(__name__)

SUFFIXES = ("safetensors", "resume", "features", "onnx")  # of what training writes beside the checkpoint
PARTS = {"run", "history", "best", "model", "optimizer", "schedule"}


class Stateful(Protocol):
    """A model, an optimizer, a schedule."""

    def state_dict(self) -> dict: ...
    def load_state_dict(self, state_dict: dict) -> object: ...


def state_path(weights: Path) -> Path:
    """The state file that belongs to a checkpoint."""
    return weights.with_suffix(".resume")


def fingerprint(plan: DataSplits) -> str:
    """'3,500 files, 5e1f...': equal for the same files, by split, class, name and size."""
    digest, count = hashlib.sha256(), 0
    for split, files in plan.files.items():
        for name, paths in files.items():
            count += len(paths)
            digest.update(os.fsencode("".join(f"{split}/{name}/{p.name} {size_on_disk(p)}\n" for p in paths)))
    return f"{counted(count, 'file')}, {digest.hexdigest()[:16]}"


def size_on_disk(path: Path) -> int | None:
    """Bytes of a file; None where it is missing, as reading it will report."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def identity(config: TrainConfig, plan: DataSplits, verdicts: VerdictFile | None = None) -> dict[str, Any]:
    """What a run and its continuation have in common: the settings that change a result, the classes, the files."""
    files = {"files": fingerprint(plan), "verdicts": verdicts and verdicts.digest}
    return {**config.as_dict(affecting_result=True), "classes": plan.classes, **files}


def read_origin(document: dict) -> WeightsOrigin:
    """Where the weights of a run came from, by its state.

    States written before the kind was stored have the description alone, whose first word then was "random" for
    random weights, and the setting ``pretrained``, which names a file where it is neither of its three words.
    """
    description, pretrained = str(document["run"].get("weights")), document["run"].get("pretrained")
    match document.get("origin"):
        case "random" | "imagenet" | "file" as kind:
            return WeightsOrigin(kind, description)
    if description.startswith("random"):
        return WeightsOrigin("random", description)
    return WeightsOrigin("imagenet" if pretrained in ("auto", "imagenet", "none") else "file", description)


@dataclass(frozen=True)
class StateFile:
    """The state of one run.

    Attributes:
        path: the file.
        run: what must agree between a run and its continuation.
        origin: kind of the weights that the run started from, see :class:`crackcam.models.pretrained.WeightsOrigin`.
        begun: when this process took it up, in seconds of the clock.
    """

    path: Path
    run: dict[str, Any]
    origin: str = "random"
    begun: float = field(default_factory=time.time)

    @property
    def previous(self) -> Path:
        """The state before."""
        return _previous(self.path)

    def write(self, parts: Mapping[str, Stateful], history: list[dict], best: dict[str, torch.Tensor]) -> None:
        """Write a state atomically; the last one becomes the previous state.

        Args:
            parts: ``model``, ``optimizer`` and ``schedule``.
            history: the epochs so far.
            best: state dict of the best epoch.
        """
        document: dict[str, object] = {name: part.state_dict() for name, part in parts.items()}
        # OneCycleLR keeps a function among its settings, which are given anew anyway.
        settings = parts["schedule"].state_dict()
        document["schedule"] = {name: value for name, value in settings.items() if not callable(value)}
        document |= {"run": self.run, "origin": self.origin, "history": history, "best": best}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # a file of Python's, whose errors name their cause
                torch.save(document, file)
            with suppress(FileNotFoundError):  # the first state; or another run into the same file is over
                self.path.replace(self.previous)

        write_atomically(self.path, write)

    def started_from(self, origin: WeightsOrigin) -> StateFile:
        """The same for a run whose initial weights are known."""
        return replace(self, run={**self.run, "weights": origin.description}, origin=origin.kind)

    def check(self, document: dict) -> None:
        """Raises UserError where a state belongs to another run; settings that it does not know had their defaults."""
        before = {**TrainConfig().as_dict(), **document["run"]}
        for name, value in self.run.items():
            if before.get(name) != value:
                raise UserError(
                    f"{self.path} belongs to a run with {name} {before.get(name)}, not {value}: give the same arguments"
                )

    def remove(self) -> None:
        """Remove the states of a finished run, and the temporary files of killed ones."""
        for file in (self.path, self.previous):
            file.unlink(missing_ok=True)
        remove_temporary_files(self.path, SUFFIXES, self.begun)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def read_state(path: Path) -> dict | None:
    """The last whole state; None where there is none.

    Raises:
        UserError: all of them are damaged.
    """
    existing = [file for file in (path, _previous(path)) if file.exists()]
    for file in existing:
        with suppress(UserError):
            document = read_pickle(file)
            if isinstance(document, dict) and document.keys() >= PARTS and isinstance(document["run"], dict):
                return document
        logger.warning("the state in %s is damaged", file)
    if existing:
        raise UserError(f"the state in {path} is damaged: train without --resume")
    return None
