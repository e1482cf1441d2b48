"""One package of cam_speed.py in a process of its own: reads jobs, answers what they took.

    python -P cam_worker.py PACKAGE ARCH BATCH DEVICE LAYOUT

PACKAGE is ours, grad-cam, torchcam or captum; LAYOUT channels_last or contiguous_format. The first line of stdout is
``{"offers": [class names], "version": ..., ...}``, or ``{"missing": ...}`` where the package is not installed. Then,
for each line of stdin, a list of ``[class name, precision]``, comes one line: the seconds of each job, and of plain
forward passes before, between and after them; the peak of memory in MB before the jobs and after them. Maps are left
in the working directory, ``PACKAGE-CLASS-PRECISION.npy``.
"""

import contextlib
import gc
import importlib
import importlib.metadata
import io
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

Run = Callable[[str, Any, torch.Tensor], np.ndarray]

TARGET = 1
AT_ONCE = 32  # images at a time where a peer has no default of its own: ours
# As many steps and copies as ours, where a peer's default is another.
STEPS, COPIES, GRADIENT_COPIES, WINDOW = 32, 8, 25, 32

LONG, SHORT = "PlusPlus", "pp"  # as we name it, and as torchcam does
TORCHCAM_OPTIONS: dict[str, dict[str, Any]] = {
    "FinerCAM": {"gamma": 1.0},
    "SmoothGradCAMPlusPlus": {"num_samples": COPIES},
}
CAPTUM: dict[str, Callable[[Any, Any, torch.Tensor, int], torch.Tensor]] = {
    "GradCAM": lambda attr, model, x, _: attr.LayerGradCam(model, model.layer4[-1]).attribute(x, TARGET),
    "HiResCAM": lambda attr, model, x, _: attr.LayerGradientXActivation(model, model.layer4[-1]).attribute(x, TARGET),
    "IntegratedGradients": lambda attr, model, x, _: attr.IntegratedGradients(model).attribute(
        x, target=TARGET, n_steps=STEPS, internal_batch_size=max(AT_ONCE, len(x))
    ),
    "SmoothGrad": lambda attr, model, x, each: attr.NoiseTunnel(attr.Saliency(model)).attribute(
        x, nt_samples=GRADIENT_COPIES, nt_samples_batch_size=each, stdevs=0.15, target=TARGET, abs=False
    ),
    "Occlusion": lambda attr, model, x, each: attr.Occlusion(model).attribute(
        x, (3, WINDOW, WINDOW), strides=(3, WINDOW // 2, WINDOW // 2), target=TARGET, perturbations_per_eval=each
    ),
    "GuidedBackpropReLUModel": lambda attr, model, x, _: attr.GuidedBackprop(model).attribute(x, TARGET),
    "GuidedGradCAM": lambda attr, model, x, _: attr.GuidedGradCam(model, model.layer4[-1]).attribute(x, TARGET),
}


def layers_of(model: Any, name: str) -> list[Any]:
    """RefineCAM multiplies the maps of several layers; all others look at the last one."""
    return [model.layer2[-1], model.layer3[-1], model.layer4[-1]] if name == "RefineCAM" else [model.layer4[-1]]


def run_pytorch_grad_cam(name: str, model: Any, images: torch.Tensor) -> np.ndarray:
    """Ours and grad-cam: the same calls."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = getattr(pytorch_grad_cam, name)
    if name == "GuidedBackpropReLUModel":
        return method(model)(images, TARGET)
    # Finer-CAM chooses the classes to compare with only where it is given no targets.
    targets = None if name == "FinerCAM" else [ClassifierOutputTarget(TARGET)] * len(images)
    return method(model=model, target_layers=layers_of(model, name))(images, targets=targets)


def run_torchcam(name: str, model: Any, images: torch.Tensor) -> np.ndarray:
    from torchcam import methods

    layers, options = layers_of(model, name), TORCHCAM_OPTIONS.get(name, {})
    extractor = getattr(methods, name.replace(LONG, SHORT))(model, layers if len(layers) > 1 else layers[0], **options)
    with extractor, torch.set_grad_enabled(name not in ("CAM", "ScoreCAM")):
        scores = model(images)
        classes = scores.argmax(dim=1).tolist() if name == "FinerCAM" else [TARGET] * len(images)
        return finished(extractor(classes, scores)[0][:, None], images)


def run_captum(name: str, model: Any, images: torch.Tensor) -> np.ndarray:
    from captum import attr

    found = CAPTUM[name](attr, model, images, max(1, AT_ONCE // len(images))).detach()
    if name.startswith("Guided"):
        return found.movedim(1, -1).cpu().numpy()
    return finished(found.abs() if name == "SmoothGrad" else found, images)


def finished(channels: torch.Tensor, images: torch.Tensor) -> np.ndarray:
    """What ours and grad-cam deliver: no negative values, stretched to [0, 1], as large as the image, an array."""
    maps = channels.sum(dim=1, keepdim=True).relu()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    maps = (maps - low) / (high - low + 1e-8)
    return F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu().numpy()


def load(package: str) -> tuple[list[str], str, Run]:
    """What the package offers by class name, its version, and how it is run."""
    if package == "ours":
        sys.path.insert(0, str(Path(__file__).parents[1]))
    module = importlib.import_module("pytorch_grad_cam" if package in ("ours", "grad-cam") else package)
    assert ("site-packages" in str(module.__file__)) == (package != "ours"), module.__file__
    version = f"with torch {torch.__version__}" if package == "ours" else importlib.metadata.version(package)
    if package == "torchcam":
        return [name.replace(SHORT, LONG) for name in dir(module.methods)], version, run_torchcam
    if package == "captum":
        return list(CAPTUM), version, run_captum
    # grad-cam's guided backpropagation takes one image, and gives back a model whose ReLUs are no longer in place.
    offers = [name for name in dir(module) if package == "ours" or not name.startswith("Guided")]
    return offers, version, run_pytorch_grad_cam


class Bench:
    """The network, the images and the package."""

    def __init__(self, package: str, run: Run, arch: str, batch: str, device: str, layout: str) -> None:
        torch.manual_seed(0)  # all packages: the same weights, the same images
        form = getattr(torch, layout)
        self.package, self.run, self.device = package, run, torch.device(device)
        self.model = torchvision.models.get_model(arch).eval().to(self.device, memory_format=form)
        self.images = torch.randn(int(batch), 3, 224, 224).to(self.device, memory_format=form)

    def work_through(self, jobs: list[list[str]]) -> dict[str, Any]:
        answer: dict[str, Any] = {"forwards": [self.forward()], "seconds": [], "before": self.peak()}
        for name, precision in jobs:
            answer["seconds"].append(self.seconds(name, precision))
            gc.collect()
            answer["forwards"].append(self.forward())
        return {**answer, "peak": self.peak()}

    def seconds(self, name: str, precision: str) -> float:
        """Making the method's object, calling it, and taking it down."""
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        if name == "forward":
            with bf16:
                return self.forward()
        with bf16, contextlib.redirect_stderr(io.StringIO()):  # progress bars
            start = self.now()
            maps = self.run(name, self.model, self.images)
            elapsed = self.now() - start
        path = Path(f"{self.package}-{name}-{precision}.npy")
        if not path.exists():
            np.save(path, maps)
        return elapsed

    def forward(self) -> float:
        start = self.now()
        with torch.no_grad():
            self.model(self.images)
        return self.now() - start

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """Of the GPU's memory, else of the process, in MB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main(package: str, *setting: str) -> None:
    answers, sys.stdout = sys.stdout, io.StringIO()  # the packages print
    torch.set_num_threads(os.cpu_count() or 1)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        offers, version, run = load(package)
    except ModuleNotFoundError as error:
        say({"missing": str(error)})
        return
    bench = Bench(package, run, *setting)
    gc.freeze()
    say({"offers": offers, "version": version, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        try:
            say(bench.work_through(json.loads(line)))
        except Exception as error:  # a peer's, reported in the table
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
