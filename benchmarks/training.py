"""What training costs: ours, a tutorial's loop and fastai from the same ImageNet weights, in turns.

    python benchmarks/training.py --data DIR                    DIR holds train/, val/ and test/; three rounds
    python benchmarks/training.py --data DIR --all-epochs       ten epochs of the loop, whatever it reaches
    python benchmarks/training.py --data DIR --fastai PYTHON    fastai as well, by the interpreter of its environment

Each run is a process of its own, from its start on. In each round, in a new order:

bare        one forward pass over the images of the probe (train and val), decoded into memory, in the precision
            that ours uses: the unit. Mean of a pass before the probe and one after it
reading     decoding them, in the same process
probe       the linear probe on them, in the same process: features and logistic regression
probed      `train.py --epochs 0`, from the start of the process to the line with the scores of the probe
again       the same once more: its features are cached
ours        `train.py --epochs 0`: the whole process, test split and figures included
tutorial    ImageFolder, frozen backbone that is computed again in each epoch, Adam on the head, fp32
fastai      vision_learner, frozen, one cycle an epoch, fp32

A contender that trains in epochs is scored on the test split after each, while its clock is stopped; its time is that
of the first epoch that reaches --target. Shown: medians, in brackets the lowest and the highest, over the bare forward
pass of the same round. ultralytics is not among them: its networks have weights of their own, which it downloads.

Prints a markdown table. The weights come from torch's cache (TORCH_HOME).
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def worker(python, kind, settings):
    """What a contender prints."""
    command = [python, str(ROOT / "benchmarks/training_worker.py"), kind, json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(settings, folder):
    """Seconds until the scores of the probe were logged, and in all; the accuracy on the test split."""
    command = [sys.executable, str(ROOT / "train.py"), "--data", settings["data"], "--arch", settings["arch"]]
    command += ["--epochs", "0", "--batch-size", str(settings["batch_size"]), "--pretrained", "imagenet", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    probe = None
    for line in process.stderr:
        if line.startswith("linear probe:"):
            probe = time.perf_counter() - start
    out = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    return probe, time.perf_counter() - start, json.loads(out)["test"]["accuracy"]


def round_of(settings, fastai, order):
    """Seconds and accuracy by contender; None for one that did not reach the target."""
    found = {}
    for name in order:
        print(name, file=sys.stderr, flush=True)
        if name == "ours":
            with tempfile.TemporaryDirectory() as folder:
                probe, whole, right = ours(settings, folder)
                again, _, _ = ours(settings, folder)
            found |= {"probed": (probe, None), "again": (again, None), "ours": (whole, right)}
        elif name == "bare":
            found |= {key: (seconds, None) for key, seconds in worker(sys.executable, name, settings).items()}
        else:
            rows = worker(fastai if name == "fastai" else sys.executable, name, settings)["epochs"]
            reached = [row for row in rows if row["accuracy"] >= settings["target"]]
            first = reached[0] if reached else None
            found[name] = (first["seconds"], first["accuracy"]) if first else None
            if settings["all_epochs"]:
                found[f"{name}, {len(rows)} epochs"] = (rows[-1]["seconds"], rows[-1]["accuracy"])
    return found


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--arch", default="squeezenet1_0", help="of torchvision (default: squeezenet1_0)")
    parser.add_argument("--target", type=float, default=0.99, help="accuracy on the test split (default: 0.99)")
    parser.add_argument("--epochs", type=int, default=10, help="at most (default: 10)")
    parser.add_argument("--all-epochs", action="store_true", help="go on where the target is reached")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--batch-size", type=int, default=32, help="default: 32")
    parser.add_argument("--workers", type=int, default=1, help="of the others' DataLoader (default: 1)")
    parser.add_argument("--fastai", metavar="PYTHON", help="the interpreter of an environment with fastai")
    args = parser.parse_args()
    settings = {**vars(args), "data": str(Path(args.data).resolve())}
    contenders = ["bare", "ours", "tutorial", *(["fastai"] if args.fastai else [])]
    rounds = []
    for number in range(args.rounds):
        order = random.Random(number).sample(contenders, len(contenders))
        rounds.append(round_of(settings, args.fastai, order))
    print(
        f"| {args.arch}, {args.rounds} rounds | in bare forward passes | seconds | test accuracy |\n|---|---|---|---|"
    )
    for name in rounds[0]:
        cells = [found[name] for found in rounds if found.get(name)]
        if not cells:
            print(f"| {name} | {args.target:g} not reached in {args.epochs} epochs | | |")
            continue
        ratios = [found[name][0] / found["bare"][0] for found in rounds if found.get(name)]
        right = [cell[1] for cell in cells if cell[1] is not None]
        missed = f", missed in {len(rounds) - len(cells)}" if len(cells) < len(rounds) else ""
        accuracy = f"{statistics.median(right):.4f}{missed}" if right else ""
        print(f"| {name} | {spread(ratios)} | {statistics.median(cell[0] for cell in cells):.1f} | {accuracy} |")


if __name__ == "__main__":
    main()
