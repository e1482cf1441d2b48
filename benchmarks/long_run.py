"""Does a process that trains, predicts and explains over and over stay as it was? Memory, files, threads, hooks.

    python benchmarks/long_run.py --minutes 60

Each round calls the three scripts' main() on tiny generated data, in this one process, as a user's own code would:
training with a worker process, predictions as a figure and as a table, heatmaps by methods with gradients, without, and
by all stages, a report, and a call that ends in an error. A line a round: resident memory in MB, open files, threads,
child processes, hooks on models still alive, files in the temporary folder. Exit 1 where the last quarter of the rounds
has more of any than the second quarter (memory: by more than 5 %). Linux.
"""

import argparse
import contextlib
import gc
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import inference
import train
import xai
from crackcam.data.synthetic import write_sample

ALLOWED = 1.05  # memory at the end over memory before
TRAIN = ["--pretrained", "none", "--arch", "squeezenet1_1", "--image-size", "64", "--epochs", "1", "--batch-size", "8"]
COMMANDS = [  # script, arguments, exit code
    (train, [*TRAIN, "--workers", "1"], 0),
    (inference, ["--type", "Positive", "--num", "2"], 0),
    (inference, ["--all", "--batch-size", "3"], 0),
    (xai, ["--type", "Positive", "--num", "2", "--method", "gradcam,layercam,eigencam,ablationcam"], 0),
    (xai, ["--type", "Negative", "--num", "1", "--method", "layercam", "--fuse", "product", "--report"], 0),
    (xai, ["--all", "--method", "gradcam", "--batch-size", "3"], 0),
    (xai, ["--type", "Positive", "--num", "1", "--method", "gradcam", "--layer", "none"], 2),
]


def hooks():
    """Hooks on all networks that are still alive."""
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module)]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind, None) or ()) for module in modules for kind in kinds)


def measured():
    """What there is of everything that could leak."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "MB": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": int(status["Threads"]),
        "python threads": threading.active_count(),
        "processes": len(children),
        "hooks": hooks(),
        "temporary": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def one_round():
    """Every command once."""
    for script, arguments, code in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            found = script.main(arguments)
        if found != code:
            sys.exit(f"{script.__name__} {' '.join(arguments)} ended with {found}:\n{output.getvalue()}")


def leaks(rounds):
    """What the last quarter of the rounds has more of than the second."""
    quarter = max(1, len(rounds) // 4)
    before, after = rounds[quarter : 2 * quarter], rounds[-quarter:]
    found = []
    for name in rounds[0]:
        was, now = (statistics.median(found[name] for found in some) for some in (before, after))
        if now > was * (ALLOWED if name == "MB" else 1):
            found.append(f"{name}: {was:g} before, {now:g} at the end")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rounds", type=int, help="so many instead, 3 or more")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 3:
        parser.error("--rounds: of fewer than 3 no two are compared")
    before, begun = Path.cwd(), time.monotonic()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            write_sample(Path("data"), counts={"train": 8, "test": 3})
            while len(rounds) < args.rounds if args.rounds else time.monotonic() - begun < 60 * args.minutes:
                one_round()
                rounds.append(measured())
                output = ", ".join(f"{value:.0f} {name}" for name, value in rounds[-1].items())
                print(f"round {len(rounds)}, {(time.monotonic() - begun) / 60:.1f} min: {output}", flush=True)
        finally:
            os.chdir(before)
    found = leaks(rounds)
    print(f"{len(rounds)} rounds of {len(COMMANDS)} commands:", "; ".join(found) or "nothing grows")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
