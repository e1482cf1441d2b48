"""What a killed run of training goes on from: everything that the next epoch depends on, after every epoch.

    weights/model.resume             after the last epoch: network, optimizer, schedule, history, and the best network
    weights/model.resume.previous    after the epoch before, should the last one be damaged

Both are written under another name and renamed, so that a kill leaves whole files whenever it comes. The best network
is part of the state: no kill between two files can part them. What is drawn by chance needs no keeping, for every epoch
draws from generators seeded with its own number, every picture from one seeded with its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from crackcam.data.splits import DataSplits
from crackcam.errors import UserError
from crackcam.files import temporary_stem, write_atomically
from crackcam.models.checkpoint import read_pickle
from crackcam.text import counted
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

FREE = {"data", "resume", "json", "sample", "workers", "output", "device", "report", "command", "export", "offline"}
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
    """Bytes of a file; None of what is there no more, or leads nowhere, as reading it will say."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def what_must_agree(card: ModelCard, plan: DataSplits) -> dict:
    """What a run and its resumption have in common: arguments, but those that change no result; classes, files."""
    run = {**card.training, "weights": card.pretrained, "classes": card.classes, "files": fingerprint(plan)}
    return {name: value for name, value in run.items() if name not in FREE}


@dataclass(frozen=True)
class StateFile:
    """The state of one run.

    Attributes:
        path: the file.
        run: what must agree between a run and its resumption.
        begun: when this process took it up, in seconds of the clock.
    """

    path: Path
    run: dict
    begun: float = field(default_factory=time.time)

    @property
    def previous(self) -> Path:
        """The state before."""
        return _previous(self.path)

    def write(self, parts: Mapping[str, Stateful], history: list[dict], best: dict[str, torch.Tensor]) -> None:
        """Atomically; what was there becomes the previous state."""
        document: dict[str, object] = {name: part.state_dict() for name, part in parts.items()}
        # OneCycleLR keeps a function among its settings, which are given anew anyway.
        settings = parts["schedule"].state_dict()
        document["schedule"] = {name: value for name, value in settings.items() if not callable(value)}
        document |= {"run": self.run, "history": history, "best": best}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # Python's, which says what went wrong
                torch.save(document, file)
            with suppress(FileNotFoundError):  # the first; or another run into the same file is over
                self.path.replace(self.previous)

        write_atomically(self.path, write)

    def check(self, document: dict) -> None:
        """Raises UserError where a state belongs to another run."""
        before = document["run"]
        for name, value in self.run.items():
            if before.get(name) != value:
                raise UserError(
                    f"{self.path} belongs to a run with {name} {before.get(name)}, not {value}: give the same arguments"
                )

    def remove(self) -> None:
        """The run is over; also what kills of earlier ones left half written."""
        for file in (self.path, self.previous):
            file.unlink(missing_ok=True)
        ours = re.compile(rf"{re.escape(temporary_stem(self.path))}\d+\.({'|'.join(SUFFIXES)})")
        for file in self.path.parent.iterdir():
            with suppress(FileNotFoundError):
                # What is younger, another run into the same file is writing now.
                if ours.fullmatch(file.name) and file.stat().st_mtime < self.begun:
                    file.unlink()


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def read_state(path: Path) -> dict | None:
    """The last whole state; None where there is none.

    Raises:
        UserError: there are only damaged ones.
    """
    there = [file for file in (path, _previous(path)) if file.exists()]
    for file in there:
        with suppress(UserError):
            document = read_pickle(file)
            if isinstance(document, dict) and document.keys() >= PARTS and isinstance(document["run"], dict):
                return document
        logger.warning(f"the state in {file} is damaged")
    if there:
        raise UserError(f"the state in {path} is damaged: train without --resume")
    return None
