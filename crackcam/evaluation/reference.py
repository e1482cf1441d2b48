"""Maps of the installed package grad-cam, and the time they take.

    python -P peer.py JOB.pt RESULT.npz

Runs in a process of its own, with -P and in another folder: there ``pytorch_grad_cam`` is the package and not the
folder beside this one, which is why this file imports nothing else of the project. JOB.pt holds model (a module of
torch, torchvision or timm), pictures (N, 3, H, W), targets (N), methods (names of target layers by class name), reshape
(name of the package's reshape transform, height and width, where the layers need one) and threads. It is unpickled: it
must come from the process that started this one. RESULT.npz holds under each class name the maps, and under
"<class name> seconds" their time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main(job_path: str, result_path: str) -> None:
    """Read the job, make the maps, write the result."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils import reshape_transforms
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if "site-packages" not in str(pytorch_grad_cam.__file__):
        sys.exit(f"the package grad-cam is hidden by {pytorch_grad_cam.__file__}")
    job = torch.load(job_path, weights_only=False)
    torch.set_num_threads(job["threads"])
    model, pictures, reshape = job["model"], job["pictures"], None
    if job["reshape"]:
        name, height, width = job["reshape"]
        reshape = functools.partial(getattr(reshape_transforms, name), height=height, width=width)
    targets = [ClassifierOutputTarget(index) for index in job["targets"]]
    with torch.no_grad():
        model(pictures)  # warm
    result: dict[str, np.ndarray | float] = {}
    for name, layer_names in job["methods"].items():
        layers = [model.get_submodule(layer) for layer in layer_names]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            start = time.perf_counter()
            method = getattr(pytorch_grad_cam, name)
            cam = method(model, layers, reshape_transform=reshape)
            result[name] = cam(pictures, targets)
            result[f"{name} seconds"] = time.perf_counter() - start
    with Path(result_path).open("wb") as file:
        np.savez(file, **result)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
