"""The nine methods of the tutorials on nine pictures: ours against the installed package grad-cam, in one run.

    python benchmarks/nine_methods.py                      the checkpoint and the data of the current folder
    python benchmarks/nine_methods.py --data D --weights W --repeats 3

Same weights, pictures, layer and targets; grad-cam runs in a process of its own, and only its call is timed, not its
start. The two take turns, method by method. Prints a markdown table: medians in seconds, and the largest difference of
the maps.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from crackcam import console, explaining, predicting  # noqa: E402
from crackcam import model as m  # noqa: E402
from crackcam.methods import METHODS  # noqa: E402
from pytorch_grad_cam.utils.maps import normalize  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    console.add_picture_flags(parser)
    console.add_machine_flags(parser, precision="fp32")
    parser.add_argument("--repeats", type=console.positive_int, default=1)
    args = parser.parse_args(argv)
    network = predicting.open_network(args)
    pictures = predicting.read_selection(args, predicting.select(args, network.card))
    pixels = predicting.to_pixels(network, [picture.pixels for picture in pictures])
    targets = predicting.predict(network, pixels, args.batch_size).argmax(axis=1).tolist()
    layers = m.find_target_layers(network.model, network.card.image_size)
    job = {
        "arch": network.card.arch, "classes": len(network.card.classes), "layer": layers[0].name, "targets": targets,
        "state": {k: v.cpu().contiguous() for k, v in network.model.state_dict().items()},
        "pictures": network.machine.input(pixels).cpu().contiguous(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    explaining.heat_maps(network, "gradcam", layers, pixels, targets)  # warm
    print("| method | grad-cam, s | ours, s | ratio | largest difference | correlation |")
    print("|---|---|---|---|---|---|")
    totals = [0.0, 0.0]
    for name, method in METHODS.items():
        ours, theirs = [], []
        for _ in range(args.repeats):
            seconds, expected = peer(job, method.class_name)
            theirs.append(seconds)
            start = time.perf_counter()
            found = explaining.heat_maps(network, name, layers, pixels, targets, batch_size=args.batch_size)
            ours.append(time.perf_counter() - start)
        heat = normalize(found).cpu().numpy()
        medians = [statistics.median(theirs), statistics.median(ours)]
        totals = [total + median for total, median in zip(totals, medians, strict=True)]
        correlation = np.corrcoef(heat.ravel(), expected.ravel())[0, 1]
        difference = abs(heat - expected).max()
        row = f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[0] / medians[1]:.1f} |"
        print(f"{row} {difference:.1e} | {correlation:.4f} |", flush=True)
    print(f"| all nine | {totals[0]:.1f} | {totals[1]:.1f} | {totals[0] / totals[1]:.1f} | | |")
    print(f"\n{len(pictures)} pictures, {network.card.arch}, {job['threads']} threads, {args.repeats} repeats")
    print(console.versions())


def peer(job, class_name):
    """Seconds and maps of the installed package."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save({**job, "methods": [class_name]}, f"{folder}/job.pt")
        script = str(ROOT / "benchmarks/peer_maps.py")
        subprocess.run([sys.executable, "-P", script, "job.pt", "result.npz"], cwd=folder, check=True)
        result = np.load(f"{folder}/result.npz")
        return float(result[f"{class_name} seconds"]), result[class_name]


if __name__ == "__main__":
    main()
