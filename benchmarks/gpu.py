"""A GPU in ten minutes: forward passes, heatmaps beside other packages, whole folders, decoding, training.

    python benchmarks/gpu.py                                  everything, on the GPU
    python benchmarks/gpu.py --device cpu --quick             a minute or two on any machine, to see that it works
    python benchmarks/gpu.py --only forward decoding          parts of it

forward     one batch in memory through resnet18, resnet50 and the bundled network: eager fp32 (the unit), channels-last
            fp32, TF32, bf16, torch.compile, and compiled with CUDA graphs. They take turns; medians over the rounds
heatmaps    one-pass methods, ours and grad-cam, torchcam and captum where they are installed: cam_speed.py
folders     inference.py and xai.py --all of 5,000 generated images against the bare forward pass: throughput.py
decoding    the JPEG files of those images, images a second: our reader on all cores, torchvision's on the CPU and GPU
training    an epoch of train.py on generated images that lie in memory, against forward and backward passes alone

Prints markdown tables. Rates are of this machine: say which GPU and processor they are from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.io import decode_jpeg, read_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import crackcam
from crackcam.data.images import read_image
from crackcam.data.synthetic import write_sample
from crackcam.methods import METHODS

EAGER = "eager, fp32"
ONE_PASS = [name for name, method in METHODS.items() if method.forwards is not None and method.forwards <= 3]


class Plan:
    """What is measured, and how much of it.

    Attributes:
        device: where.
        batch: images at a time.
        rounds: of forward passes, each about half a second long.
        files: images of the folders and of decoding.
    """

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        self.batch, self.rounds, self.files = (2, 2, 40) if quick else (64, 9, 5000)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def rate(self, run: Callable[[], object]) -> float:
        """Images a second of a function that computes a batch."""
        start, done = self.now(), 0
        while not done or time.perf_counter() - start < (0.05 if self.quick else 0.5):
            run()
            done += self.batch
            self.now()
        return done / (self.now() - start)


# -- forward passes ----------------------------------------------------------------------------------------------------


def networks(plan: Plan) -> dict[str, tuple[nn.Module, int]]:
    """Models in eval mode, and the side of their images in pixels."""
    if plan.quick:
        return {"resnet18": (torchvision.models.resnet18().eval(), 64)}
    bundled = crackcam.load(device="cpu")
    named = {name: (torchvision.models.get_model(name).eval(), 224) for name in ("resnet18", "resnet50")}
    return {**named, "bundled": (bundled.model, bundled.preprocessing.size)}


def ways(model: nn.Module, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The same batch, computed in different ways."""
    rows, last = images.contiguous(), images.contiguous(memory_format=torch.channels_last)
    device, compiled = images.device.type, torch.compile(model)
    graphs = torch.compile(model, mode="reduce-overhead")  # CUDA graphs

    def bf16(run: nn.Module) -> object:
        with torch.autocast(device, torch.bfloat16):
            return run(last)

    def tf32() -> object:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            return model(last)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    return {
        EAGER: lambda: model(rows),
        "channels-last, fp32": lambda: model(last),
        "channels-last, TF32": tf32,
        "channels-last, bf16": lambda: bf16(model),
        "compiled, bf16": lambda: bf16(compiled),
        "compiled with CUDA graphs, bf16": lambda: bf16(graphs),
    }


def forward(plan: Plan) -> None:
    print(f"\n## Forward passes, batches of {plan.batch}\n\n| network | way | times eager fp32 | images per second |")
    print("|---|---|---|---|")
    torch.backends.cudnn.allow_tf32 = False
    for name, (model, side) in networks(plan).items():
        model = model.to(plan.device, memory_format=torch.channels_last)
        images = torch.randn(plan.batch, 3, side, side, device=plan.device)
        rates: dict[str, list[float]] = {}
        with torch.inference_mode():
            runs = ways(model, images)
            for turn in range(plan.rounds + 1):
                for way, run in runs.items():
                    rate = plan.rate(run)
                    if turn:  # the first warms up, and compiles
                        rates.setdefault(way, []).append(rate)
        for way, measured in rates.items():
            ratio = statistics.median(mine / eager for mine, eager in zip(measured, rates[EAGER], strict=True))
            print(f"| {name} | {way} | {ratio:.2f} | {statistics.median(measured):,.0f} |", flush=True)
        torch.compiler.reset()


# -- what other scripts measure ----------------------------------------------------------------------------------------


def heatmaps(plan: Plan) -> None:
    arch, methods = ("resnet18", ["gradcam"]) if plan.quick else ("resnet50", ONE_PASS)
    repeats = "2" if plan.quick else "15"
    settings = ["--batch", str(min(plan.batch, 32)), "--repeats", repeats, "--device", plan.device.type]
    run_script("cam_speed.py", "--arch", arch, *settings, "--methods", *methods)


def folders(plan: Plan) -> None:
    few = str(plan.files // 2)
    memory, precision = ["--memory", few, str(plan.files)], "fp32" if plan.device.type == "cpu" else "bf16"
    size = ["--images", str(plan.files), "--batch-size", str(plan.batch), "--rounds", "1" if plan.quick else "2"]
    print("\n## Whole folders\n", flush=True)
    run_script("throughput.py", *size, *memory, "--precision", precision)


def run_script(name: str, *flags: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / name), *flags], check=True)


# -- decoding ----------------------------------------------------------------------------------------------------------


def decoding(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder), counts={"test": min(500, plan.files // 2)})
        files = sorted(Path(folder, "test").rglob("*.jpg"))
        # in memory: the disk takes no part
        encoded = [read_file(str(file)) for file in files]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            readers: dict[str, Callable[[], object]] = {
                "crackcam, all cores": lambda: list(threads.map(read_image, files)),
                "torchvision, all cores": lambda: list(threads.map(decode_jpeg, encoded)),
            }
            if plan.device.type == "cuda":
                readers["torchvision, GPU"] = lambda: decode_jpeg(encoded, device=plan.device)
            rates: dict[str, list[float]] = {name: [] for name in readers}
            for turn in range(plan.rounds + 1):
                for name, read in readers.items():
                    start = plan.now()
                    read()
                    if turn:
                        rates[name].append(len(files) / (plan.now() - start))
    print("\n## Decoding JPEG files of 224 x 224 px\n\n| reader | images per second |\n|---|---|")
    for name, measured in rates.items():
        print(f"| {name} | {statistics.median(measured):,.0f} |")


# -- training ----------------------------------------------------------------------------------------------------------


def training(plan: Plan) -> None:
    """The seconds of train.py's second epoch more than of its first alone, against bare steps on as many images."""
    images = 80 if plan.quick else 4000
    model = torchvision.models.resnet18(num_classes=2).train().to(plan.device, memory_format=torch.channels_last)
    optimiser, loss = torch.optim.AdamW(model.parameters(), fused=True), nn.CrossEntropyLoss()
    batch = torch.randn(plan.batch, 3, 224, 224, device=plan.device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(plan.batch, dtype=torch.long, device=plan.device)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(plan.device.type, torch.bfloat16, enabled=plan.device.type == "cuda"):
            value = loss(model(batch), labels)
        value.backward()
        optimiser.step()

    plan.rate(step)
    bare = statistics.median(plan.rate(step) for _ in range(plan.rounds))
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder, "data"), counts={"train": images // 2, "val": 4, "test": 4})
        times = [_train_seconds(plan, folder, epochs) for epochs in (1, 3)]
    ours = 2 * images / (times[1] - times[0])
    print("\n## Training, resnet18, 224 px\n\n| loop | images per second | of bare steps |\n|---|---|---|")
    print(f"| forward, backward, AdamW | {bare:,.0f} | 100 % |")
    print(f"| train.py, an epoch | {ours:,.0f} | {100 * ours / bare:.0f} % |")


def _train_seconds(plan: Plan, folder: str, epochs: int) -> float:
    settings = ["--arch", "resnet18", "--pretrained", "none", "--head", "linear", "--epochs", str(epochs)]
    command = [sys.executable, str(ROOT / "train.py"), "--data", "data", *settings, "--device", plan.device.type]
    start = time.perf_counter()
    subprocess.run([*command, "--batch-size", str(plan.batch)], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


PARTS = {each.__name__: each for each in (forward, heatmaps, folders, decoding, training)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here: --device cpu --quick tries the script")
    plan = Plan(args.device, args.quick)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU"
    print(f"{gpu}, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
    for name in args.only:
        PARTS[name](plan)


if __name__ == "__main__":
    main()
