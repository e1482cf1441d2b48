"""What a heatmap costs: every method, ours, grad-cam, torchcam and captum side by side, in plain forward passes.

    python benchmarks/cam_speed.py                                   resnet18 and resnet50, batch 1 and 9: hours
    python benchmarks/cam_speed.py --arch resnet18 --batch 9 --methods gradcam eigencam                  minutes
    python benchmarks/cam_speed.py --device cpu cuda                 both: the default where there is a GPU

Random weights, random images of 224 x 224, class 1 at the last block of the network; model and images are
channels-last (``--contiguous``: the other format). All deliver the same: (N, 224, 224) in [0, 1] as a numpy array.
sess takes minutes and rise is in no other package: both are left out unless ``--methods`` names them.

Each package runs in a process of its own (cam_worker.py), with the same weights and images; one computes at a time.

1. Memory. Each method runs once in a fresh process: the peak of resident memory (GPU: of allocated memory), and how
   far it lies above the peak of the plain forward pass that went before.
2. Time. The packages take turns, in a new order each round; each runs its methods, also in a new order, with a plain
   forward pass (no_grad, fp32) before and after each. A run counts as its time over the mean of those two. Shown: the
   median, in brackets the quartiles and the number of runs: ``--repeats`` below 2 s (peers: 15 at most), 5 below
   20 s, above it 2, of which one is the run of step 1.
3. Control. A plain forward pass takes part as one more method. It should cost 1; what it measures instead is the first
   row, and the other rows of its column are divided by it.

Prints markdown tables. Peers that are not installed are left out.
"""

import argparse
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from crackcam.limits import POSITIVE_INT
from crackcam.methods import METHODS

# This process imports no torch: a child's peak of memory starts from its parent's.

PEERS = ("grad-cam", "torchcam", "captum")
COLUMNS = {"ours": ("ours", "fp32"), "ours, bf16": ("ours", "bf16"), **{name: (name, "fp32") for name in PEERS}}
CONTROL = "forward"
PEER_REPEATS, QUICK_BELOW, SLOW_FROM = 15, 2.0, 20.0


@dataclass
class Cell:
    """One method in one column: megabytes, and times in plain forward passes."""

    before: float
    peak: float
    rounds: int
    ratios: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        return statistics.median(self.ratios)


Cells = dict[tuple[str, str], Cell]  # by column and method


class Worker:
    """A package in a process of its own, which runs what it is told."""

    def __init__(self, package: str, setting: list[str], folder: str) -> None:
        command = [sys.executable, "-P", str(ROOT / "benchmarks/cam_worker.py"), package, *setting]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.about = self._answer()

    def run(self, keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
        jobs = [[METHODS[name].class_name if name in METHODS else name, COLUMNS[column][1]] for column, name in keys]
        print(json.dumps(jobs), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "its process ended"}


def ratios(answer: dict[str, Any]) -> list[float]:
    """Each job's time over the mean of the plain forward passes on both sides of it."""
    beside = itertools.pairwise(answer["forwards"])
    return [seconds / ((a + b) / 2) for seconds, (a, b) in zip(answer["seconds"], beside, strict=True)]


def run_fresh(column: str, name: str, setting: list[str], folder: str, repeats: int) -> Cell | str:
    """A method in a process of its own; the error, where it fails."""
    worker = Worker(COLUMNS[column][0], setting, folder)
    answer = worker.run([(column, name)])
    worker.close()
    if "error" in answer:
        return answer["error"]
    (seconds,) = answer["seconds"]
    most = min(repeats, PEER_REPEATS) if column in PEERS else repeats
    slow = seconds >= SLOW_FROM
    rounds = most if seconds < QUICK_BELOW else 1 if slow else min(5, most)
    return Cell(answer["before"], answer["peak"], rounds, ratios(answer) if slow else [])


def take_turns(cells: Cells, workers: dict[str, Worker]) -> float:
    """Fills the cells with ratios; returns the median seconds of all plain forward passes."""
    order, forwards = random.Random(0), []
    for turn in range(-1, max(cell.rounds for cell in cells.values())):  # turn -1 warms up
        print(f"time: round {turn + 1}", file=sys.stderr)
        for package in order.sample(sorted(workers), len(workers)):
            due = [key for key, cell in cells.items() if COLUMNS[key[0]][0] == package and turn < cell.rounds]
            due = [key for key in due if turn >= 0 or cells[key].rounds > 1]
            if not due:
                continue
            order.shuffle(due)
            answer = workers[package].run(due)
            if turn >= 0:
                forwards += answer["forwards"]
                for key, ratio in zip(due, ratios(answer), strict=True):
                    cells[key].ratios.append(ratio)
    return statistics.median(forwards)


def take_off_control(cells: Cells) -> None:
    control = {column: cells[column.split(",")[0], CONTROL].cost for column, _ in cells}
    for (column, name), cell in cells.items():
        if name != CONTROL or "bf16" in column:
            cell.ratios = [ratio / control[column] for ratio in cell.ratios]


def measure(args: argparse.Namespace, setting: list[str]) -> None:
    """All columns for one network, batch and device: runs them and prints the tables."""
    with tempfile.TemporaryDirectory() as folder:
        workers = {package: Worker(package, setting, folder) for package in ("ours", *args.peers)}
        about = {package: worker.about for package, worker in workers.items()}
        workers = {package: worker for package, worker in workers.items() if "offers" in about[package]}
        cells: Cells = {}
        failures = []
        for column, (package, _) in COLUMNS.items():
            offers = about.get(package, {}).get("offers", [])
            for name in [CONTROL] * bool(offers) + [n for n in args.methods if METHODS[n].class_name in offers]:
                print(f"memory: {column}, {name}", file=sys.stderr)
                found = run_fresh(column, name, setting, folder, args.repeats)
                if isinstance(found, Cell):
                    cells[column, name] = found
                else:
                    failures.append(f"{column} fails at {name}: {found}")
        forward = take_turns(cells, workers)
        for worker in workers.values():
            worker.close()
        take_off_control(cells)
        arch, batch, device, layout = setting
        print(f"\n## {arch}, batch {batch}, {device}, {layout}, {about['ours']['threads']} threads\n")
        print(f"A plain forward pass takes {1000 * forward:.1f} ms.")
        report(cells, [c for c in COLUMNS if (c, CONTROL) in cells], [CONTROL, *args.methods], Path(folder))
        print("", *failures, sep="\n")
        print(", ".join(f"{p} {a['version']}" for p, a in about.items() if "offers" in a), flush=True)


def report(cells: Cells, columns: list[str], names: list[str], folder: Path) -> None:
    def time(column: str, name: str) -> str:
        runs, cost = cells[column, name].ratios, cells[column, name].cost
        digits = 2 if cost < 20 else 0
        low, _, high = statistics.quantiles(runs, n=4) if len(runs) > 4 else [0.0] * 3
        return f"{cost:.{digits}f} ({f'{low:.{digits}f}–{high:.{digits}f}; ' if high else ''}{len(runs)})"

    def memory(column: str, name: str) -> str:
        cell = cells[column, name]
        return f"{cell.peak:.0f} (+{cell.peak - cell.before:.0f})"

    def maps(column: str, name: str) -> np.ndarray:
        package, precision = COLUMNS[column]
        return np.load(folder / f"{package}-{METHODS[name].class_name}-{precision}.npy").ravel()

    def likeness(column: str, name: str) -> str:
        return f"{np.corrcoef(maps('ours', name), maps(column, name))[0, 1]:.4f}"

    print_table("Time, in plain forward passes: median (quartiles; runs)", time, cells, columns, names)
    compare(cells, names[1:])
    print_table("Peak memory, MB (above a plain forward pass)", memory, cells, columns, names)
    print_table("Correlation with our maps in fp32", likeness, cells, columns[1:], names[1:])


def print_table(
    title: str, text: Callable[[str, str], str], cells: Cells, columns: list[str], names: list[str]
) -> None:
    print(f"\n{title}\n\n| method | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(text(c, name) if (c, name) in cells else '' for c in columns)} |")


def compare(cells: Cells, names: list[str]) -> None:
    """Ours in fp32 with each peer, in sentences."""
    slower = []
    print()
    for peer in PEERS:
        both = [name for name in names if ("ours", name) in cells and (peer, name) in cells]
        if not both:
            continue
        gains = {name: cells[peer, name].cost / cells["ours", name].cost for name in both}
        saved = {name: cells[peer, name].peak - cells["ours", name].peak for name in both}
        least = min(both, key=lambda name: saved[name])
        slower += [f"{name} ({peer} takes {gain:.2f} of our time)" for name, gain in gains.items() if gain < 1]
        mean = statistics.geometric_mean(gains.values())
        print(f"- {peer} takes {mean:.2f} times our time (geometric mean of {len(both)} methods), and at least")
        print(f"  {saved[least]:.0f} MB more memory ({least}).")
    print(f"- Ours is slower, be it by less than the control's scatter, at: {', '.join(slower) or 'none'}.")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet18", "resnet50"], metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=POSITIVE_INT.parse, default=[1, 9], metavar="N")
    usual = [name for name in METHODS if name not in ("sess", "rise")]
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=usual, metavar="NAME")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, metavar="NAME", help="none: ours alone")
    parser.add_argument("--repeats", type=POSITIVE_INT.parse, default=51, metavar="N")
    parser.add_argument("--device", nargs="+", default=["cpu", "cuda"] if shutil.which("nvidia-smi") else ["cpu"])
    parser.add_argument("--contiguous", action="store_true")
    args = parser.parse_args(argv)
    layout = "contiguous_format" if args.contiguous else "channels_last"
    for device, arch, batch in itertools.product(args.device, args.arch, args.batch):
        measure(args, [arch, str(batch), device, layout])


if __name__ == "__main__":
    main()
