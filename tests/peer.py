"""Compute heatmaps with the installed package grad-cam, in a process where it is ``pytorch_grad_cam``.

    python -P peer.py JOB.pt RESULT.npz

JOB.pt holds named models, images (N, 3, H, W), and runs: for each key the model's name, the method's, its layers, the
arguments of constructor and call, target categories or None, and a grid of tokens or None.
"""

import contextlib
import functools
import inspect
import io
import sys
from pathlib import Path

import numpy as np
import torch


def main(job_path, result_path):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
    from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform

    assert "site-packages" in pytorch_grad_cam.__file__, pytorch_grad_cam.__file__
    job = torch.load(job_path, weights_only=False)
    methods = [name for name, found in vars(pytorch_grad_cam).items() if inspect.isclass(found)]
    result = {"classes": np.array(methods)}
    for key, run in job["runs"].items():
        model = job["models"][run["model"]]
        grid = run["grid"] and functools.partial(vit_reshape_transform, height=run["grid"][0], width=run["grid"][1])
        settings = dict(run["settings"])
        if "base_method" in settings:
            settings["base_method"] = getattr(pytorch_grad_cam, settings["base_method"])
        kind = ClassifierOutputSoftmaxTarget if run["softmax"] else ClassifierOutputTarget
        targets = run["targets"] and [kind(index) for index in run["targets"]]
        layers = [model.get_submodule(layer) for layer in run["layers"]]
        np.random.seed(0)  # noqa: NPY002 - RandomCAM draws from it
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cam = getattr(pytorch_grad_cam, run["method"])(model, layers, reshape_transform=grid, **settings)
            result[key] = cam(job["images"], targets=targets, **run["call"])
    with Path(result_path).open("wb") as file:
        np.savez(file, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
