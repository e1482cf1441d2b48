"""Decisions on images of 12 megapixels that are read in tiles, and what they cost.

    python benchmarks/large_images.py decide --rows large_images.jsonl
    python benchmarks/large_images.py cost

``decide`` makes 60 mosaics of photographs that training has not seen, 4000 x 3000 pixels each: half of them of
photographs without a crack, half with one cracked photograph at a random place. It needs the pictures in CRACKCAM_DATA
(see CONTRIBUTING). What is measured is kept in ``--rows``, and continued there.

* concrete: neighbouring files of concrete/test, 227 x 227 px each, which were cut from the same photographs.
* walls: crack-free parts of one wall of crack_masks, 448 x 448 px each, turned and mirrored, because there are few of
  each wall; the cracked one is from another photograph. Of the half of that set that nothing was chosen by.

All are brought to the mean colour of the mosaic, and neighbours fade into each other over 24 px. The bricks of
CRACKCAM_DATA are not used: of their crack-free photographs one in six shows a crack, so that hardly any mosaic of them
would be crack-free.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from crack_network import data_folder, parent

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import crackcam
from crackcam.data.images import read_image
from crackcam.models.tile_layout import Layout
from crackcam.models.tiles import calibrated_for_area, read_evidence, tiles_at_once

HEIGHT, WIDTH = 3000, 4000
FADE = 24  # pixels over which neighbours fade into each other
COUNTS = {"concrete": 40, "walls": 20}


class Mosaic(NamedTuple):
    """A large image of many photographs.

    Attributes:
        name: of the set, and a number.
        pixels: (HEIGHT, WIDTH, 3) uint8.
        cracked: the photograph with a crack in it, (H, W, 3) uint8, as it is; None: there is none.
    """

    name: str
    pixels: np.ndarray
    cracked: np.ndarray | None


def compose(photographs: list[np.ndarray], cracked: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Photographs (side, side, 3) uint8, row by row, over and over, in one mean colour; the cracked one among them."""
    side = len(photographs[0])
    step, colour = side - FADE, np.mean(photographs, axis=(0, 1, 2))
    rows, columns = (-(-(length - FADE) // step) for length in (HEIGHT, WIDTH))
    total = np.zeros((rows * step + FADE, columns * step + FADE, 3), np.float32)
    weight = np.zeros((*total.shape[:2], 1), np.float32)
    ramp = np.minimum(1, (np.minimum(np.arange(side), np.arange(side)[::-1]) + 1) / (FADE + 1))
    window = (ramp[:, None] * ramp)[..., None].astype(np.float32)
    # all of it lies inside the image
    place = (int(rng.integers((HEIGHT - side) // step + 1)), int(rng.integers((WIDTH - side) // step + 1)))
    for row in range(rows):
        for column in range(columns):
            if cracked is not None and (row, column) == place:
                photograph = cracked
            else:
                number = row * columns + column
                photograph = photographs[number % len(photographs)]
                if number >= len(photographs):  # again: turned and mirrored
                    photograph = np.rot90(photograph, int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
            photograph = np.clip(photograph + (colour - photograph.mean(axis=(0, 1))), 0, 255)
            y, x = row * step, column * step
            total[y : y + side, x : x + side] += window * photograph
            weight[y : y + side, x : x + side] += window
    return np.rint(total / weight)[:HEIGHT, :WIDTH].astype(np.uint8)


def concrete(count: int) -> Iterator[Mosaic]:
    """Mosaics of concrete/test."""
    folder = data_folder() / "concrete" / "test"
    negatives, positives = (sorted((folder / name).iterdir()) for name in ("Negative", "Positive"))
    for number in range(count):
        rng = np.random.default_rng([19, number])
        start = int(rng.integers(len(negatives)))
        files = [negatives[(start + step) % len(negatives)] for step in range(300)]
        cracked = read_image(positives[int(rng.integers(len(positives)))]) if number % 2 else None
        yield Mosaic(f"concrete {number}", compose([read_image(file) for file in files], cracked, rng), cracked)


def walls(count: int) -> Iterator[Mosaic]:
    """Mosaics of the reporting half of crack_masks."""
    folder = data_folder() / "crack_masks" / "images"
    files = sorted(folder.iterdir())
    parents = sorted({*map(parent, files)})
    reporting = [file for file in files if parents.index(parent(file)) % 2]  # as in crack_network.halves
    by_wall = defaultdict(list)
    for file in reporting:
        by_wall[parent(file)].append(file)
    crack_free = sorted(name for name in by_wall if name.startswith("noncrack"))
    cracked_files = [file for file in reporting if not file.stem.startswith("noncrack")]
    for number in range(count):
        rng = np.random.default_rng([20, number])
        photographs = [read_image(file) for file in by_wall[crack_free[number % len(crack_free)]]]
        cracked = read_image(cracked_files[int(rng.integers(len(cracked_files)))]) if number % 2 else None
        yield Mosaic(f"walls {number}", compose(photographs, cracked, rng), cracked)


SITES = {"concrete": concrete, "walls": walls}


def measure(network: crackcam.Classifier, mosaic: Mosaic) -> dict:
    """What the network says: of the image resized, of its tiles, and of the cracked photograph alone."""
    start = time.perf_counter()
    evidence = read_evidence(network, mosaic.pixels)
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        logits = network.model.pool(evidence.map[None])[0]
    alone = None if mosaic.cracked is None else network.predict(mosaic.cracked).probabilities["Positive"]
    return {
        "name": mosaic.name,
        "cracked": mosaic.cracked is not None,
        "resized": network.predict(mosaic.pixels, resize=True).probabilities["Positive"],
        "logits": logits.tolist(),
        "frames": mosaic.pixels.shape[0] * mosaic.pixels.shape[1] / network.preprocessing.size**2,
        "alone": alone,
        "seconds": round(seconds, 1),
    }


def decide(network: crackcam.Classifier, path: Path) -> None:
    """Measure what has not been measured, and print the table."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {row["name"] for row in rows}
    with path.open("a") as file:
        for site, count in COUNTS.items():
            if all(f"{site} {number}" in known for number in range(count)):
                continue
            for mosaic in SITES[site](count):
                if mosaic.name not in known:
                    rows.append(measure(network, mosaic))
                    print(json.dumps(rows[-1]), file=file, flush=True)
    print(table(rows, network))


def table(rows: list[dict], network: crackcam.Classifier) -> str:
    """Recall, specificity and balanced accuracy of each set, resized and in tiles, without and with calibration."""
    classes, mask = network.classes, network.model.class_mask
    lines = [f"{'mosaics of':12} {'decided':28} {'recall':>14} {'specificity':>14} {'balanced':>9}"]
    for site in (*COUNTS, "all"):
        some = [row for row in rows if site in ("all", row["name"].split()[0])]
        alone = [row for row in some if not row["cracked"] or row["alone"] > 0.5]
        ways = {
            "resized": (some, lambda row: row["resized"]),
            "tiles, not calibrated": (some, lambda row: _positive(row, classes, mask, {})),
            "tiles": (some, lambda row: _positive(row, classes, mask, network.card.area)),
            "tiles, crack right alone": (alone, lambda row: _positive(row, classes, mask, network.card.area)),
        }
        for name, (chosen, probability) in ways.items():
            truth = np.array([row["cracked"] for row in chosen])
            found = np.array([probability(row) > 0.5 for row in chosen])
            counts = [
                (int((found == truth)[truth == which].sum()), int((truth == which).sum())) for which in (True, False)
            ]
            rates = [right / max(1, number) for right, number in counts]
            texts = [f"{right} of {number}" for right, number in counts]
            lines.append(f"{site:12} {name:28} {texts[0]:>14} {texts[1]:>14} {np.mean(rates):9.3f}")
    return "\n".join(lines)


def _positive(row: dict, classes: list[str], mask: torch.Tensor, area: dict[str, float]) -> float:
    logits = calibrated_for_area(torch.tensor(row["logits"]), row["frames"], mask, area)
    return float(logits.softmax(0)[classes.index("Positive")])


def cost(network: crackcam.Classifier, rounds: int) -> None:
    """The time of one image of 12 megapixels against the forward passes of its tiles alone; and the peak of memory."""
    image = np.random.default_rng(0).integers(100, 180, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    layout = Layout.of(HEIGHT, WIDTH, network.preprocessing.size)
    area = layout.rows.tile * layout.columns.tile
    at_once = tiles_at_once(network, area, 32)
    tiles = torch.randint(0, 256, (at_once, 3, layout.rows.tile, layout.columns.tile), dtype=torch.uint8)
    network.predict(image[:448, :448].copy())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare, whole = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        network.explain(image, target="Positive")
        whole.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(layout.tiles // at_once):
                network.inference_model(network.to_inputs(tiles))
        bare.append(time.perf_counter() - start)
    print(
        f"{layout.tiles} tiles of {layout.columns.tile} x {layout.rows.tile} px, "
        f"{area * layout.tiles / image[..., 0].size:.2f} times the pixels"
    )
    ratios = np.divide(whole, bare)
    print(
        f"prediction and heatmap {np.median(whole):.2f} s, bare forward passes {np.median(bare):.2f} s, "
        f"ratio {np.median(ratios):.3f} [{ratios.min():.3f}-{ratios.max():.3f}]; "
        f"peak memory {(peak - before) / 1024:.0f} MB above start"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    deciding = commands.add_parser("decide", help="60 mosaics of 12 megapixels")
    deciding.add_argument("--weights", type=Path, default=None, help="default: the bundled network")
    deciding.add_argument("--rows", type=Path, default=Path("large_images.jsonl"))
    costing = commands.add_parser("cost", help="time against bare forward passes, and memory")
    costing.add_argument("--weights", type=Path, default=None, help="default: the bundled network")
    costing.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    network = crackcam.load(args.weights, precision="auto")
    if args.command == "decide":
        decide(network, args.rows)
    else:
        cost(network, args.rounds)


if __name__ == "__main__":
    main()
