"""Heatmaps scored against the model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from crackcam.models.loaded import LoadedModel
from crackcam.evaluation.baselines import BASELINES
from crackcam.evaluation.mask_scores import _in_two_groups, _number, _without_nan

STEPS = 32  # of deletion and insertion
NOISE = 0.02 / 0.225  # half width of instability's noise: 0.02 of pixel values in 0..1, with ImageNet's deviation


# -- against the network ---------------------------------------------------------------------------------------------


class FaithfulnessScores(NamedTuple):
    """Maps against the network that they explain: means over the pictures. See the module."""

    deletion: float
    insertion: float
    road: float
    drop: float
    increase: float
    randomised: float
    instability: float


Explain = Callable[[nn.Module, torch.Tensor, list[int]], torch.Tensor]


def score_faithfulness(
    model: nn.Module, inputs: torch.Tensor, targets: list[int], explain: Explain, batch_size: int = 32, seed: int = 0
) -> FaithfulnessScores:
    """Score maps by what they say of the network.

    Args:
        model: maps (N, 3, H, W) to logits (N, K); in eval mode.
        inputs: (N, 3, H, W) as the model takes them.
        targets: class index for each.
        explain: makes maps (N, H, W), >= 0, of a model, inputs and targets. It is called three times.
        batch_size: pictures at a time.
        seed: of noise and random weights.
    """
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.maps import normalize
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    heats = normalize(explain(model, inputs, targets))
    maps, softmax = heats.cpu().numpy(), [ClassifierOutputSoftmaxTarget(target) for target in targets]
    generator = torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(inputs.shape, generator=generator) - 1).to(inputs) * NOISE
    noisy = normalize(explain(model, inputs + noise, targets))
    random = normalize(explain(randomised(model, seed), inputs, targets))
    change = (noisy - heats).flatten(1).norm(dim=1) / heats.flatten(1).norm(dim=1).clamp(min=1e-12)
    return FaithfulnessScores(
        deletion=float(np.mean(perturbation_curve(model, inputs, heats, targets, False, batch_size).mean(axis=1))),
        insertion=float(np.mean(perturbation_curve(model, inputs, heats, targets, True, batch_size).mean(axis=1))),
        road=float(np.mean(ROADCombined()(inputs, maps, softmax, model))),
        drop=float(np.mean(DropInConfidence()(inputs, maps, softmax, model))),
        increase=float(np.mean(IncreaseInConfidence()(inputs, maps, softmax, model))),
        randomised=float(np.mean([rank_correlation(a, b) for a, b in zip(maps, random.cpu().numpy(), strict=True)])),
        instability=float(change.mean()),
    )


def compare_faithfulness(
    network: LoadedModel, explains: dict[str, Explain], pixels: torch.Tensor, targets: list[int], batch_size: int = 32
) -> list[dict]:
    """Methods, by name, and all baselines against the network; highest insertion first in each group.

    Args:
        explains: how each method makes its maps.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each.

    Returns:
        Rows of :class:`NetworkScores`.
    """
    inputs = network.to_inputs(pixels)

    def knows_nothing(baseline: Callable[[np.ndarray], np.ndarray]) -> Explain:
        def explain(model: nn.Module, inputs: torch.Tensor, targets: list[int]) -> torch.Tensor:
            seen = network.preprocessing.denormalize(inputs).permute(0, 2, 3, 1).cpu().numpy()
            return torch.from_numpy(np.stack([baseline(np.ascontiguousarray(picture)) for picture in seen])).to(inputs)

        return explain

    def rows(group: dict[str, Explain], baseline: bool) -> list[dict]:
        scored = [
            {
                "method": name, "baseline": baseline,
                **score_faithfulness(network.model, inputs, targets, explain, batch_size)._asdict(),
            }
            for name, explain in group.items()
        ]  # fmt: skip
        return sorted(map(_without_nan, scored), key=lambda row: -row["insertion"])

    known = {name: knows_nothing(baseline) for name, baseline in BASELINES.items()}
    return rows(explains, False) + rows(known, True)


def faithfulness_table(rows: list[dict]) -> str:
    """The comparison by the network, readable; arrows say what is better."""
    head = "".join(
        f"{name:>15}"
        for name in ("deletion v", "insertion ^", "ROAD ^", "drop v", "increase ^", "randomised 0", "instability v")
    )

    def line(row: dict) -> str:
        return f"{row['method']:<20}" + "".join(f"{_number(row[name]):>15}" for name in FaithfulnessScores._fields)

    return _in_two_groups(f"{'':<20}{head}", rows, line)


def perturbation_curve(
    model: nn.Module, inputs: torch.Tensor, heats: torch.Tensor, targets: list[int], insert: bool, batch_size: int = 32
) -> np.ndarray:
    """The target's probability as pixels go (to the mean colour) or come (into a blurred picture), hottest first.

    Returns:
        (N, STEPS) float32: the mean of each step's two ends, so that the mean of a row is the area by trapezoids.
    """
    curves = []
    for picture, heat, target in zip(inputs, heats, targets, strict=True):
        empty = blurred(picture) if insert else torch.zeros_like(picture)
        order = heat.flatten().argsort(descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        points = []
        for some in torch.arange(STEPS + 1, device=heat.device).split(batch_size):
            chosen = (rank[None] * STEPS < some[:, None] * len(rank)).reshape(-1, 1, *heat.shape)
            seen = torch.where(chosen, picture, empty) if insert else torch.where(chosen, empty, picture)
            with torch.no_grad():
                points.append(model(seen).float().softmax(dim=1)[:, target].cpu())
        curve = torch.cat(points).numpy()
        curves.append((curve[1:] + curve[:-1]) / 2)
    return np.stack(curves)


def blurred(picture: torch.Tensor) -> torch.Tensor:
    """A picture (3, H, W) without detail: blurred over a twentieth of its longer side."""
    rows = picture.permute(1, 2, 0).cpu().numpy()
    soft = cv2.GaussianBlur(rows, (0, 0), max(rows.shape[:2]) / 20, borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(soft).permute(2, 0, 1).to(picture)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the network with random weights: those that its layers begin with.

    Weights of layers that cannot begin anew, such as torch's attention, and embeddings keep their values, shuffled.
    """
    copied = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in copied.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for own in module.parameters(recurse=False):
                own.copy_(own.flatten()[torch.randperm(own.numel(), device=own.device)].view_as(own))
    return copied


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two maps; 0 where one is constant, which tells nothing about the other."""
    from scipy.stats import spearmanr

    return float(spearmanr(a.ravel(), b.ravel()).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
