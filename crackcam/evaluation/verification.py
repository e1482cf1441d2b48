"""The maps that are shown, computed again by the installed package grad-cam, and how far apart the two are."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crackcam.errors import UserError
from crackcam.methods import NAMED
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.target_layers import TargetLayer
from pytorch_grad_cam.utils.maps import normalize

SAME = 1e-3  # largest difference of maps in [0, 1] that rounding explains


class Comparison(NamedTuple):
    """One method, ours against the package's.

    Attributes:
        method: its name.
        difference: largest one between maps that are stretched to [0, 1].
        rank_correlation: Spearman's, mean over the pictures.
        times_as_fast: their seconds / our seconds.
        verdict: same, by design (and why), or DIFFERENT.
    """

    method: str
    difference: float
    rank_correlation: float
    times_as_fast: float
    verdict: str


def verify(
    network: LoadedModel, layers: dict[str, list[TargetLayer]], pixels: torch.Tensor, targets: list[int],
    heats: dict[str, list[torch.Tensor]], seconds: dict[str, float],
) -> list[Comparison]:  # fmt: skip
    """Compare maps with those of the package, for the same weights, pictures, layers and targets, on the processor.

    Args:
        layers: target layers, by method.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each picture.
        heats: maps (size, size) of each picture, by method; methods that the package lacks are left out.
        seconds: what each took.

    Raises:
        UserError: the package is not installed, has none of the methods, or fails; or the head is multiscale.
    """
    if isinstance(network.model, Multiscale):
        raise UserError("--verify runs grad-cam in a process that knows no multiscale head: verify a linear one")
    try:
        version("grad-cam")
    except PackageNotFoundError:
        raise UserError("the package grad-cam is not installed: pip install grad-cam") from None
    shared = [method for method in heats if NAMED[method].difference is not None]
    if not shared:
        raise UserError("the package grad-cam has none of these methods: nothing to verify")
    grid = layers[shared[0]][0].grid
    theirs = run_peer(
        {
            "model": copy.deepcopy(network.model).cpu(), "targets": targets, "threads": torch.get_num_threads(),
            "pictures": network.to_inputs(pixels).cpu(),
            "reshape": (grid.reshape.__name__, grid.height, grid.width) if grid.reshape else None,
            "methods": {NAMED[name].class_name: [layer.name for layer in layers[name]] for name in shared},
        }
    )  # fmt: skip
    comparisons = []
    for method in shared:
        name, departs = NAMED[method].class_name, NAMED[method].difference
        found, expected = normalize(torch.stack(heats[method])).cpu().numpy(), theirs[name]
        difference = float(abs(found - expected).max())
        verdict = "same" if difference < SAME else f"by design: {departs}" if departs else "DIFFERENT"
        speed = float(theirs[f"{name} seconds"]) / seconds[method]
        comparisons.append(Comparison(method, difference, mean_rank_correlation(found, expected), speed, verdict))
    return comparisons


def run_peer(job: dict) -> dict[str, np.ndarray]:
    """Run ``crackcam/peer.py``, which says what a job is, and return what it computed.

    Raises:
        UserError: it failed; the last line that it printed says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.save(job, Path(folder, "job.pt"))
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("reference.py").resolve()),
            "job.pt",
            "result.npz",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603 - our own file
        if done.returncode:
            raise UserError(f"the package grad-cam failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        with np.load(Path(folder, "result.npz")) as result:
            return dict(result)


def mean_rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Spearman's correlation of maps (N, H, W), mean over the pictures in which both vary."""
    from scipy.stats import spearmanr

    pairs = [(a.ravel(), b.ravel()) for a, b in zip(ours, theirs, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs])) if pairs else float("nan")


def table(comparisons: list[Comparison]) -> str:
    """The comparisons, readable."""
    lines = [f"{'method':<20}{'difference':>11}{'rank corr.':>12}{'speed':>9}   verdict"]
    for name, difference, correlation, speed, verdict in comparisons:
        lines.append(f"{name:<20}{difference:>11.1e}{correlation:>12.4f}{speed:>8.1f}x   {verdict}")
    return "\n".join(lines)
