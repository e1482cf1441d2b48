"""Verification: the same heatmaps by the installed package grad-cam, and how far they are from ours."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from crackcam.errors import UserError
from crackcam.evaluation.scores import rank_correlation
from crackcam.methods import NAMED
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.target_layers import TargetLayer
from pytorch_grad_cam.utils.maps import normalize

TOLERANCE = 1e-3  # largest difference of heatmaps in [0, 1] that rounding explains
REFERENCE = Path(__file__).with_name("reference.py")


@dataclass(frozen=True, eq=False)
class MethodRun:
    """What one method made of all images.

    Attributes:
        method: a name in :data:`crackcam.methods.NAMED`.
        layers: target layers.
        heatmaps: (size, size) each, in the method's raw unit, at the size of the model's input.
        seconds: that they took.
    """

    method: str
    layers: Sequence[TargetLayer]
    heatmaps: Sequence[torch.Tensor]
    seconds: float

    @property
    def class_name(self) -> str:
        """The method's class in both packages."""
        return NAMED[self.method].class_name


@dataclass(frozen=True)
class Comparison:
    """One method, ours against the package's.

    Attributes:
        method: its name.
        difference: largest one between heatmaps that are normalised to [0, 1].
        rank_correlation: Spearman's, mean over the images; nan where all heatmaps are constant.
        times_as_fast: their seconds / our seconds.
        verdict: same, by design (and why), or DIFFERENT.
    """

    method: str
    difference: float
    rank_correlation: float
    times_as_fast: float
    verdict: str

    def as_row(self) -> dict:
        """As in JSON."""
        return asdict(self)


def verify(
    network: LoadedModel, runs: Sequence[MethodRun], pixels: torch.Tensor, targets: list[int]
) -> list[Comparison]:
    """Compare heatmaps with those of the package, for the same weights, images, layers and targets, on the CPU.

    Args:
        network: the model that was explained.
        runs: what each method made; methods that the package lacks are left out.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each image.

    Raises:
        UserError: the package is not installed, has none of the methods, or fails; or the head is multiscale.
    """
    if isinstance(network.model, Multiscale):
        raise UserError("--verify does not support multiscale heads: the package grad-cam runs without crackcam")
    try:
        version("grad-cam")
    except PackageNotFoundError:
        raise UserError("the package grad-cam is not installed: pip install grad-cam") from None
    shared = [run for run in runs if NAMED[run.method].difference is not None]
    if not shared:
        raise UserError("the package grad-cam has none of these methods: nothing to verify")
    grid = shared[0].layers[0].grid
    reference = run_reference(
        {
            "model": copy.deepcopy(network.model).cpu(),
            "inputs": network.to_inputs(pixels).cpu(),
            "targets": targets,
            "methods": {run.class_name: [layer.name for layer in run.layers] for run in shared},
            "reshape": (grid.reshape.__name__, grid.height, grid.width) if grid.reshape else None,
            "threads": torch.get_num_threads(),
        }
    )
    return [compare(run, reference[run.class_name], float(reference[f"{run.class_name} seconds"])) for run in shared]


def compare(run: MethodRun, expected: np.ndarray, seconds: float) -> Comparison:
    """Compare the heatmaps of a run with the package's.

    Args:
        run: ours.
        expected: (N, size, size) in [0, 1], theirs.
        seconds: that theirs took.
    """
    heatmaps = normalize(torch.stack(list(run.heatmaps))).cpu().numpy()
    difference, reason = float(abs(heatmaps - expected).max()), NAMED[run.method].difference
    verdict = "same" if difference < TOLERANCE else f"by design: {reason}" if reason else "DIFFERENT"
    correlation = mean_rank_correlation(heatmaps, expected)
    return Comparison(run.method, difference, correlation, seconds / run.seconds, verdict)


def run_reference(job: dict) -> dict[str, np.ndarray]:
    """Run the package grad-cam in a process of its own: ``reference.py`` describes the job and the result.

    Raises:
        UserError: it failed; with the last line of its messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.save(job, Path(folder, "job.pt"))
        command = [sys.executable, "-P", str(REFERENCE.resolve()), "job.pt", "result.npz"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603 - our own file
        if done.returncode:
            raise UserError(f"the package grad-cam failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        with np.load(Path(folder, "result.npz")) as result:
            return dict(result)


def mean_rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Spearman's correlation of heatmaps (N, H, W), mean over the images in which both vary; nan without such."""
    values = np.array([rank_correlation(a, b) for a, b in zip(ours, theirs, strict=True)])
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def verification_table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons, for a terminal."""
    lines = [f"{'method':<20}{'difference':>11}{'rank corr.':>12}{'speed':>9}   verdict"]
    lines += [
        f"{c.method:<20}{c.difference:>11.1e}{c.rank_correlation:>12.4f}{c.times_as_fast:>8.1f}x   {c.verdict}"
        for c in comparisons
    ]
    return "\n".join(lines)
