"""The bundled crack network: the folder it is trained on, and what it reaches on pictures of other sites.

    python benchmarks/crack_network.py prepare --output crack_training
    python train.py --data crack_training --arch timm/tf_efficientnet_lite2 ...      (weights/README.md has the command)
    python benchmarks/crack_network.py measure --weights weights/crack_lite2.safetensors
    python benchmarks/crack_network.py area --data crack_training --weights weights/crack_efficientnet_lite2.safetensors

``area`` calibrates a finished checkpoint for large images, as train.py does at its end, and changes nothing else in it.

It needs the pictures in CRACKCAM_DATA (see CONTRIBUTING). Nothing that is measured here is trained on, or chosen by.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import crackcam
from crackcam import TrainConfig
from crackcam.data.images import read_image
from crackcam.data.pixels import PixelSplit, load_splits
from crackcam.data.splits import plan_splits
from crackcam.data.synthetic.datasets import synthetic_split
from crackcam.evaluation.mask_scores import average_precision, score_masks
from crackcam.files import write_atomically
from crackcam.models import checkpoint
from crackcam.models.tensors import KEY
from crackcam.training.area import MOST, calibrate_area
from crackcam.training.calibration import expected_calibration_error

CROP = 260  # pixels; side of the crops of surfaces, and so of training
CROPS = {"train": 64, "val": 20}  # of each photograph
CRACKED_SURFACES = {"aerial_asphalt_01", "asphalt_02"}  # they are said to be crack-free, and are not


def data_folder() -> Path:
    """The folder of pictures."""
    return Path(os.environ["CRACKCAM_DATA"])


def surfaces_by_split() -> dict[str, list[Path]]:
    """The crack-free surfaces: every third is held out to measure specificity, every sixth of the others validates."""
    files = [file for file in sorted((data_folder() / "textures").glob("*.jpg")) if file.stem not in CRACKED_SURFACES]
    used = [file for number, file in enumerate(files) if number % 3 != 2]
    return {
        "train": [file for number, file in enumerate(used) if number % 6 != 3],
        "val": used[3::6],
        "held_out": files[2::3],
    }


def prepare(output: Path) -> None:
    """Write the class folders: concrete/ as it is, and crops of the surfaces at several scales as Negative."""
    concrete = data_folder() / "concrete"
    shutil.copytree(concrete, output, ignore=shutil.ignore_patterns("*.md", "*.csv"))
    for split, count in CROPS.items():
        for number, file in enumerate(surfaces_by_split()[split]):
            surface, rng = cv2.imread(str(file)), np.random.default_rng([1, number])
            for crop in range(count):
                part = random_crop(rng, surface)
                cv2.imwrite(str(output / split / "Negative" / f"{file.stem}_{crop:02}.png"), part)


def random_crop(rng: np.random.Generator, surface: np.ndarray) -> np.ndarray:
    """A square of a photograph (H, W, 3), reduced to (CROP, CROP, 3)."""
    side = round(np.exp(rng.uniform(np.log(CROP), np.log(min(surface.shape[:2])))))
    y, x = (int(rng.integers(0, length - side + 1)) for length in surface.shape[:2])
    part = np.ascontiguousarray(surface[y : y + side, x : x + side])
    return cv2.resize(part, (CROP, CROP), interpolation=cv2.INTER_AREA)


def calibrate_for_area(data: Path, weights: Path) -> dict[str, float]:
    """Fit :attr:`crackcam.types.ModelCard.area` to the validation split of a folder; write it into a checkpoint."""
    network = crackcam.load(weights, precision="auto")
    plan = plan_splits(data, TrainConfig.val_fraction, TrainConfig.seed, None)
    val = load_splits(plan, network.preprocessing, 2, ("val",))["val"]
    used = torch.linspace(0, len(val) - 1, min(MOST, len(val))).round().long()
    val = PixelSplit(val.pixels[used], val.labels[used], [val.paths[number] for number in used])
    groups = [val, synthetic_split(val, TrainConfig.seed, network.preprocessing.size)]
    network.card.area = calibrate_area(network, groups, 16)
    tensors = load_file(weights)
    write_atomically(weights, lambda path: save_file(tensors, path, metadata={KEY: checkpoint.to_json(network.card)}))
    return network.card.area


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What a network says about a set of pictures.

    Attributes:
        paths: the files.
        cracked: what each shows.
        confidences: probability of Positive.
        heatmaps: (H, W) float32 of each picture with a mask.
        masks: (H, W) bool of the crack.
        joints: (H, W) bool of what is no crack, where there is such a mask.
    """

    paths: list[Path] = field(default_factory=list)
    cracked: list[bool] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    heatmaps: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    joints: list[np.ndarray] = field(default_factory=list)

    def only(self, chosen: Iterable[int]) -> Measured:
        """Some of them, by index."""
        kept = list(chosen)
        parts = {name: [values[i] for i in kept] if values else [] for name, values in vars(self).items()}
        return Measured(**parts)

    def decisions(self) -> dict[str, float]:
        """Recall, specificity, balanced accuracy with its standard error, ECE and ranking, where both classes occur."""
        truth, confidences = np.array(self.cracked), np.array(self.confidences)
        right = (confidences > 0.5) == truth
        found: dict[str, float] = {"pictures": len(truth)}
        rates = []
        for name, label in (("recall", True), ("specificity", False)):
            if (truth == label).any():
                rates.append((right[truth == label].mean(), (truth == label).sum()))
                found[name] = rates[-1][0]
        if len(rates) == 2:
            found["accuracy"] = right.mean()
            found["balanced"] = np.mean([rate for rate, _ in rates])
            found["balanced_error"] = sum(rate * (1 - rate) / count for rate, count in rates) ** 0.5 / 2
            both = np.stack([1 - confidences, confidences], axis=1)
            found["ece"] = expected_calibration_error(both, truth.astype(int))
            found["ranking"] = roc_auc_score(truth, confidences)
        return found

    def maps(self) -> dict[str, float]:
        """Average precision, AUROC and peak, as means over the pictures that show a crack."""
        scores = score_masks(self.heatmaps, self.masks)
        found = {"ap": scores.ap_each, "ap_error": scores.ap_error, "auroc": scores.auroc_each, "peak": scores.peak}
        if self.joints:
            pairs = list(zip(self.heatmaps, self.masks, self.joints, strict=True))
            against = [average_precision(h[m | j], m[m | j]) for h, m, j in pairs if m.any() and (j & ~m).any()]
            found["ap_against_joints"] = float(np.mean(against))
            found["hot_on_joints"] = hot_on_joints(pairs)
        return found


def hot_on_joints(pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Of the hottest pixels, as many as the crack has, the fraction that lies on joints and not on the crack."""
    shares = []
    for heatmap, mask, joints in pairs:
        if mask.any():
            hot = heatmap >= np.partition(heatmap.ravel(), -mask.sum())[-mask.sum()]
            shares.append((hot & joints & ~mask).sum() / hot.sum())
    return float(np.mean(shares))


def measure(network: crackcam.Classifier, files: Iterable[tuple[Path, bool]]) -> Measured:
    """Probabilities alone."""
    listed, result = list(files), Measured()
    predictions = network.predict([path for path, _ in listed])
    for (path, label), prediction in zip(listed, predictions, strict=True):
        result.paths.append(path)
        result.cracked.append(label)
        result.confidences.append(prediction.probabilities["Positive"])
    return result


def measure_maps(network: crackcam.Classifier, folder: Path) -> Measured:
    """Probabilities and heatmaps of a folder with masks."""
    images, result = sorted((folder / "images").iterdir()), Measured()
    for path, explanation in zip(images, network.explain(images, target="Positive"), strict=True):
        mask = read_mask(folder / "masks", path.stem)
        result.paths.append(path)
        result.cracked.append(bool(mask.any()))
        result.confidences.append(explanation.prediction.probabilities["Positive"])
        result.heatmaps.append(np.asarray(explanation.heatmap))
        result.masks.append(mask)
        if (folder / "joints").is_dir():
            result.joints.append(read_mask(folder / "joints", path.stem))
    return result


def read_mask(folder: Path, stem: str) -> np.ndarray:
    """(H, W) bool of the mask of that stem."""
    (file,) = folder.glob(f"{stem}.*")
    return np.asarray(read_image(file)).max(axis=2) > 127


def class_files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The files of Negative and Positive, and whether they show a crack."""
    for name in ("Negative", "Positive"):
        yield from ((file, name == "Positive") for file in sorted((folder / name).iterdir()))


def parent(path: Path) -> str:
    """The photograph that a picture of crack_masks was cut from."""
    found = re.match(r"noncrack_noncrack_concrete_wall_\d+|[A-Za-z_]*?(9S6A\d+|DSC\d+)|[^-]+", path.stem)
    return found.group() if found else path.stem


def halves(measured: Measured) -> dict[str, Measured]:
    """The half that settings may be chosen by, and the half that is reported, by parent photograph."""
    parents = sorted({parent(path) for path in measured.paths})
    numbers = {name: number for number, name in enumerate(parents)}
    sides: dict[str, list[int]] = {"choosing": [], "reporting": []}
    for index, path in enumerate(measured.paths):
        sides["reporting" if numbers[parent(path)] % 2 else "choosing"].append(index)
    return {name: measured.only(indices) for name, indices in sides.items()}


def report(network: crackcam.Classifier, sets: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of one set after the other."""
    data = data_folder()
    if "masks" in sets or "choosing" in sets:
        masked = measure_maps(network, data / "crack_masks")
        parts = halves(masked)
        for name in ("choosing", "reporting") if "masks" in sets else ("choosing",):
            yield f"crack_masks, {name}", {**parts[name].decisions(), **parts[name].maps()}
        if "masks" in sets:
            yield "crack_masks", {**masked.decisions(), **masked.maps()}
    for name in ("planks", "tiles"):
        if name in sets:
            measured = measure_maps(network, data / name)
            yield name, {**measured.decisions(), **measured.maps()}
    for name, folder in (("bricks", data / "bricks"), ("concrete", data / "concrete" / "test")):
        if name in sets:
            yield name, measure(network, class_files(folder)).decisions()
    if "surfaces" in sets:
        yield "surfaces held out", measure_surfaces(network)
    if "photos" in sets:
        photographs = sorted(file for file in (data / "photos").iterdir() if file.suffix in (".jpg", ".png"))
        confidences = np.array(measure(network, ((file, False) for file in photographs)).confidences)
        yield "photos", {"pictures": len(confidences), "above 0.9": float((confidences > 0.9).mean())}


def measure_surfaces(network: crackcam.Classifier) -> dict[str, float]:
    """Specificity on crops of the surfaces that training has not seen, and of each file that is not always right."""
    files, each = surfaces_by_split()["held_out"], 16
    crops = []
    for number, file in enumerate(files):
        rng, surface = np.random.default_rng([2, number]), read_image(file)
        crops += [random_crop(rng, surface) for _ in range(each)]
    right = np.reshape([prediction.label == "Negative" for prediction in network.predict(crops)], (-1, each))
    by_file = {file.stem: float(rate) for file, rate in zip(files, right.mean(axis=1), strict=True) if rate < 1}
    return {"pictures": right.size, "specificity": float(right.mean()), **by_file}


SETS = ("masks", "planks", "tiles", "bricks", "concrete", "surfaces", "photos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="write the folder that the network is trained on")
    preparing.add_argument("--output", type=Path, default=Path("crack_training"))
    measuring = commands.add_parser("measure", help="what a network reaches")
    measuring.add_argument("--weights", type=Path, default=None, help="default: the bundled network")
    measuring.add_argument("--sets", nargs="+", default=SETS, choices=(*SETS, "choosing"))
    fitting = commands.add_parser("area", help="calibrate a checkpoint for large images")
    fitting.add_argument("--data", type=Path, default=Path("crack_training"), help="what prepare has written")
    fitting.add_argument("--weights", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.output)
    elif args.command == "area":
        print(json.dumps(calibrate_for_area(args.data, args.weights)))
    else:
        network = crackcam.load(args.weights)
        for name, figures in report(network, args.sets):
            rounded = {key: round(float(value), 4) for key, value in figures.items()}
            print(json.dumps({"set": name, **rounded}), flush=True)


if __name__ == "__main__":
    main()
