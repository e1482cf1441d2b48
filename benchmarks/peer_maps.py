"""Run in a process of its own, where ``pytorch_grad_cam`` is the installed package grad-cam: its maps and its times.

    python -P peer_maps.py JOB.pt RESULT.npz

JOB.pt holds arch, classes, state (a state dict), layer, pictures (N, 3, H, W), targets (N) and methods (by class name).
"""

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision


def main(job_path, result_path):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    assert "site-packages" in pytorch_grad_cam.__file__, pytorch_grad_cam.__file__
    job = torch.load(job_path, weights_only=True)
    torch.set_num_threads(job.get("threads", 2))
    model = torchvision.models.get_model(job["arch"], num_classes=job["classes"])
    model.load_state_dict(job["state"])
    model.eval()
    targets = [ClassifierOutputTarget(index) for index in job["targets"]]
    result = {}
    for name in job["methods"]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            start = time.perf_counter()
            cam = getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.get_submodule(job["layer"])])
            result[name] = cam(job["pictures"], targets=targets)
            result[f"{name} seconds"] = time.perf_counter() - start
    with Path(result_path).open("wb") as file:
        np.savez(file, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
