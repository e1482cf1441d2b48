"""Whole folders: images per second compared with the bare forward pass, memory, and start-up time.

    python benchmarks/throughput.py                        5,000 generated images, resnet18, fp32: half an hour
    python benchmarks/throughput.py --precision bf16
    python benchmarks/throughput.py --images 200 --rounds 1 --memory 100 200        to try it

Contenders take turns, each in a process of its own: ``bare``, the network alone on a batch that lies ready, with the
scripts' layout and memory settings; inference.py --all; xai.py --all --method gradcam, overlays written; and
``plain``, a DataLoader and torchvision's ResNet as tutorials write it. Rates count from the imports on. Same network,
batch, number of threads, and precision (but plain: fp32). Medians over the rounds, in brackets the range. What is
measured is printed to stderr as it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from crackcam.cli import console
from crackcam.limits import POSITIVE_INT

SIDE, DISTINCT = 224, 1000  # more images are links to these
START = {
    "import torch, torchvision": "import torch, torchvision",
    "+ weights, one forward pass": """
import torch, torchvision
from safetensors.torch import load_file
model = torchvision.models.get_model("{arch}", num_classes=2)
model.load_state_dict(load_file("weights/model.safetensors"))
with torch.inference_mode():
    model.eval()(torch.zeros(9, 3, 224, 224))
""",
}


# -- in a process of its own, in the working folder --------------------------------------------------------------------


def bare(args: argparse.Namespace) -> None:
    import torch

    import crackcam

    console.keep_freed_memory()
    network = crackcam.load("weights/model.safetensors", precision=args.precision)
    ready = network.to_inputs(torch.zeros(args.batch_size, 3, SIDE, SIDE, dtype=torch.uint8))
    with torch.inference_mode(), network.runtime.autocast():
        for _ in range(args.images // args.batch_size):
            network.model(ready)
        if network.runtime.device.type == "cuda":
            torch.cuda.synchronize()


def ours(args: argparse.Namespace) -> None:
    import inference
    import xai

    script, more = (inference, []) if args.worker == "inference" else (xai, ["--method", "gradcam"])
    flags = ["--image", f"flight{args.images}", "--all", "--batch-size", str(args.batch_size)]
    if script.main([*flags, *more, "--precision", args.precision]):
        raise SystemExit(f"{args.worker} failed")


def plain(args: argparse.Namespace) -> None:
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader, Dataset
    from torchvision import models, transforms

    class Flight(Dataset):
        def __init__(self):
            self.files = sorted(Path(f"flight{args.images}").iterdir())
            normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            self.transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor(), normalise])

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            return self.transform(Image.open(self.files[index]).convert("RGB"))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = models.get_model(args.arch, num_classes=2)
    network.load_state_dict(load_file("weights/model.safetensors"))
    network.eval().to(device)
    with torch.no_grad():
        for batch in DataLoader(Flight(), batch_size=args.batch_size, num_workers=2):
            network(batch.to(device)).softmax(1).tolist()


WORKERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "bare": bare,
    "inference": ours,
    "xai": ours,
    "plain": plain,
}


def work(args: argparse.Namespace) -> None:
    import cv2  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.manual_seed(0)
    start = time.perf_counter()
    WORKERS[args.worker](args)
    seconds = time.perf_counter() - start
    print(json.dumps({"rate": args.images / seconds, "peak": peak_memory()}))


def peak_memory() -> float:
    """MB; of this process alone, where getrusage counts what its parent held when it was started."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024


# -- the rounds --------------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace, place: Path) -> None:
    """Images, and weights at random."""
    import torch

    from crackcam.data.synthetic import write_sample
    from crackcam.models import checkpoint, pretrained
    from crackcam.types import ModelCard

    distinct = min(DISTINCT, max(args.images, *args.memory, 18))
    write_sample(place / "data", counts={"test": (distinct + 1) // 2})
    made = sorted((place / "data/test").rglob("*.jpg"))
    for count in {args.images, *args.memory}:
        folder = place / f"flight{count}"
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:06d}.jpg").hardlink_to(made[i % len(made)])
    torch.manual_seed(0)
    network = pretrained.build_classifier(args.arch, 2)
    checkpoint.save(place / "weights/model.safetensors", network, ModelCard(args.arch, ["Negative", "Positive"], SIDE))


def measure(args: argparse.Namespace, place: Path, worker: str, images: int) -> dict:
    flags = ["--worker", worker, "--images", str(images), "--batch-size", str(args.batch_size), "--arch", args.arch]
    command = [sys.executable, str(Path(__file__).resolve()), *flags, "--precision", args.precision]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{worker}: {done.stderr}")
    measured = json.loads(done.stdout.splitlines()[-1])
    print(f"{worker}, {images:,} images: {measured['rate']:.1f} per second, {measured['peak']:.0f} MB", file=sys.stderr)
    return measured


def spread(values: list[float], form: str = ".1f") -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--images", type=POSITIVE_INT.parse, default=5000, metavar="N")
    parser.add_argument("--batch-size", type=POSITIVE_INT.parse, default=32, metavar="N")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--rounds", type=POSITIVE_INT.parse, default=5, metavar="N")
    parser.add_argument("--memory", type=POSITIVE_INT.parse, nargs=2, default=[2000, 20000], metavar="N")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare(args, place)
        rates: dict[str, list[float]] = {name: [] for name in WORKERS}
        starts: dict[str, list[float]] = {name: [] for name in [*START, "xai.py, a grid of nine", "inference.py, nine"]}
        commands = {
            **{name: [sys.executable, "-c", code.replace("{arch}", args.arch)] for name, code in START.items()},
            "xai.py, a grid of nine": [sys.executable, str(ROOT / "xai.py"), "--method", "gradcam"],
            "inference.py, nine": [sys.executable, str(ROOT / "inference.py"), "--precision", "fp32"],
        }
        # As on a user's machine, where the second start finds compiled modules.
        compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for number in range(args.rounds + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=place, env=compiled, capture_output=True, check=True)
                seconds = time.perf_counter() - start
                print(f"{name}: {seconds:.2f} s{'' if number else ', not counted'}", file=sys.stderr)
                if number:
                    starts[name].append(seconds)
        for _ in range(args.rounds):
            for name, rate in rates.items():
                rate.append(measure(args, place, name, args.images)["rate"])
        peaks = {
            name: [measure(args, place, name, count)["peak"] for count in args.memory] for name in ("inference", "xai")
        }
    print(f"{args.images:,} images, {args.arch}, {args.precision}, batches of {args.batch_size}\n")
    print("| contender | of the bare forward pass | images per second |\n|---|---|---|")
    for name, rate in rates.items():
        ratio = [100 * mine / alone for mine, alone in zip(rate, rates["bare"], strict=True)]
        print(f"| {name} | {spread(ratio, '.0f')} % | {spread(rate)} |")
    print("\n| whole process | of weights and one forward pass | seconds |\n|---|---|---|")
    base = starts["+ weights, one forward pass"]
    for name, seconds in starts.items():
        print(
            f"| {name} | {spread([mine / b for mine, b in zip(seconds, base, strict=True)], '.2f')} |"
            f" {spread(seconds, '.2f')} |"
        )
    few, many = args.memory
    print(f"\n| peak memory | {many:,} of {few:,} images | MB |\n|---|---|---|")
    for name, (small, large) in peaks.items():
        print(f"| {name} | {large / small:.3f} | {small:.0f}, {large:.0f} |")


if __name__ == "__main__":
    main()
