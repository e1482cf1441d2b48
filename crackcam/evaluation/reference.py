"""Heatmaps of the installed package grad-cam, and the time they take.

    python -P reference.py JOB.pt RESULT.npz

Runs in a process of its own, with -P and in another folder, so that ``pytorch_grad_cam`` is the package and not the
engine of this project; therefore it imports nothing else of the project. JOB.pt holds

    model       a module of torch, torchvision or timm, in eval mode
    inputs      (N, 3, H, W) float32
    targets     class index of each
    methods     names of the target layers, by class name
    reshape     name of the package's reshape transform, height and width, where the layers need one; else None
    threads     of torch

It is unpickled: it must come from the process that started this one. RESULT.npz holds the heatmaps (N, H, W) under each
class name, and their seconds under "<class name> seconds".
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch


def belongs_to(distribution: importlib.metadata.Distribution, file: Path) -> bool:
    """Whether an installed distribution owns a file, unchanged: another one may have overwritten it."""
    for entry in distribution.files or ():
        if Path(str(distribution.locate_file(entry))).resolve() == file.resolve():
            if entry.hash is None:
                return True
            digest = hashlib.new(entry.hash.mode, file.read_bytes()).digest()
            return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == entry.hash.value
    return False


def main(job_path: str, result_path: str) -> None:
    """Read the job, make the heatmaps, write the result."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils import reshape_transforms
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if not belongs_to(importlib.metadata.distribution("grad-cam"), Path(str(pytorch_grad_cam.__file__))):
        sys.exit(f"another package is imported in its place: {pytorch_grad_cam.__file__}")
    job = torch.load(job_path, weights_only=False)
    torch.set_num_threads(job["threads"])
    model, inputs, reshape = job["model"], job["inputs"], None
    if job["reshape"]:
        name, height, width = job["reshape"]
        reshape = functools.partial(getattr(reshape_transforms, name), height=height, width=width)
    targets = [ClassifierOutputTarget(index) for index in job["targets"]]
    with torch.no_grad():
        model(inputs)  # warm up
    result: dict[str, np.ndarray | float] = {}
    for name, layer_names in job["methods"].items():
        layers = [model.get_submodule(layer) for layer in layer_names]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            start = time.perf_counter()
            cam = getattr(pytorch_grad_cam, name)(model, layers, reshape_transform=reshape)
            result[name] = cam(inputs, targets)
            result[f"{name} seconds"] = time.perf_counter() - start
    with Path(result_path).open("wb") as file:
        np.savez(file, **result)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
