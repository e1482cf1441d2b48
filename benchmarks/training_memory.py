"""What training holds in memory as the number of images grows, and what reading images from a file costs an epoch.

    python benchmarks/training_memory.py memory --images 10000 --processes 1     one training run, one row of a table
    python benchmarks/training_memory.py rate                                    epochs from memory and from a file

memory   Generates that many distinct JPEG images of 64 x 64, a tenth of them for validation and a tenth for testing.
         Trains --arch at 64 px by train.py, under torchrun where --processes is above 1: the linear probe and one
         epoch, from weights that an earlier run on other images has written. Prints the
         highest resident memory (VmHWM of /proc) of any process that trains, of any worker process, and, by sampling,
         of all of them together without the pages of files. Linux only.
rate     Trains --arch on random images of --size px from a tensor and from a file, in turns, in one process, and prints
         the median images per second of both. The file is in the page cache, as it is where memory suffices.

Each prints a row of a markdown table.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}


def generate(folder, count):
    """Distinct images in class folders: bright ones and dark ones."""
    rng = np.random.default_rng(0)
    for split, fraction in SPLITS.items():
        for level, name in ((90, "dark"), (160, "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(round(count * fraction / 2)):
                small = rng.normal(level, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                image = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(folder / split / name / f"{number:06}.jpg"), image)


def status(pid):
    """Fields of /proc/PID/status in MB, of a process that may have ended."""
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}
    return {}


def descendants(pid):
    """A process and all below it: number and command line."""
    with suppress(OSError):
        yield pid, Path(f"/proc/{pid}/cmdline").read_text()
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from descendants(int(child))


def watched(command, folder):
    """Run a command; the highest VmHWM of a process and of a worker, the highest sum of anonymous memory, seconds."""
    start, peaks, parents, together = time.perf_counter(), {}, {}, 0.0
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        sizes = {}
        for pid, line in list(descendants(process.pid)):
            if "train.py" in line and "torch.distributed.run" not in line and (found := status(pid)).get("VmHWM"):
                peaks[pid] = max(peaks.get(pid, 0), found["VmHWM"])
                sizes[pid] = found["RssAnon"]
                with suppress(OSError):
                    parents.setdefault(pid, int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]))
        together = max(together, sum(sizes.values()))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    workers = [peak for pid, peak in peaks.items() if parents.get(pid) in peaks]
    trainers = [peak for pid, peak in peaks.items() if parents.get(pid) not in peaks]
    return max(trainers), max(workers, default=0.0), together, time.perf_counter() - start


def memory(args):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = [str(ROOT / "train.py"), "--arch", args.arch, "--image-size", "64", "--epochs", "1"]
        train += ["--batch-size", "128", "--workers", str(args.workers)]
        generate(folder / "first", 200)
        first = [sys.executable, *train, "--data", "first", "--pretrained", "none", "--output", "first.safetensors"]
        subprocess.run(first, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        generate(folder / "data", args.images)
        train += ["--data", "data", "--pretrained", "first.safetensors"]
        launch = [sys.executable]
        if args.processes > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.processes}"]
        trainer, worker, together, seconds = watched([*launch, *train], folder)
    print("| images | processes | highest of a process, MB | of a worker, MB | all, without files, MB | seconds |")
    print("|---|---|---|---|---|---|")
    print(f"| {args.images:,} | {args.processes} | {trainer:.0f} | {worker:.0f} | {together:.0f} | {seconds:.0f} |")


def rate(args):
    sys.path.insert(0, str(ROOT))
    from crackcam.data import storage
    from crackcam.data.pixels import PixelSplit
    from crackcam.models.loaded import LoadedModel
    from crackcam.models.pretrained import build_classifier
    from crackcam.training.loop import FineTuning
    from crackcam.training.schedule import Schedule
    from crackcam.types import ModelCard

    pixels = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8)
    stored = storage.in_file(pixels.shape, pixels.dtype)
    stored[:] = pixels
    seconds = {"memory": [], "file": []}
    for number in range(args.rounds + 1):
        for name, rows in (("memory", pixels), ("file", stored)):
            split = PixelSplit(rows, torch.arange(args.images) % 2, [])
            torch.manual_seed(0)
            loaded = LoadedModel(build_classifier(args.arch, 2), ModelCard(args.arch, ["a", "b"], args.size))
            schedule = Schedule((args.size,), 1e-4, batch_size=32, strong=False, seed=0, workers=args.workers)
            tuning = FineTuning(loaded, schedule, split, split.part(slice(32)))
            start = time.perf_counter()
            tuning.train_epoch(1)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: args.images / statistics.median(found) for name, found in seconds.items()}
    print("| network | px | workers | images a second from memory | from a file | ratio |\n|---|---|---|---|---|---|")
    ratio = rates["file"] / rates["memory"]
    print(f"| {args.arch} | {args.size} | {args.workers} | {rates['memory']:.1f} | {rates['file']:.1f} | {ratio:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "rate"))
    parser.add_argument("--images", type=int, default=0, help="default: 10000 for memory, 1000 for rate")
    parser.add_argument("--processes", type=int, default=1, help="default: 1")
    parser.add_argument("--arch", default="timm/test_convnext", help="default: timm/test_convnext")
    parser.add_argument("--size", type=int, default=64, help="side in px, for rate (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="for rate (default: 5)")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of each process (default: 0)")
    args = parser.parse_args()
    args.images = args.images or {"memory": 10_000, "rate": 1000}[args.what]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    {"memory": memory, "rate": rate}[args.what](args)


if __name__ == "__main__":
    main()
