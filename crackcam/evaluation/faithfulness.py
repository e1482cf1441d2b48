"""Faithfulness: scores of heatmaps against the model that they explain; no masks needed.

    deletion            area under the target's probability while the highest pixels are removed; lower is better
    insertion           the same while they are inserted into a blurred image; higher is better
                        both: Petsiuk et al., RISE, BMVC 2018 (arXiv:1806.07421)
    ROAD                probability lost without the highest pixels minus that lost without the lowest, halved; higher
                        is better. Rong et al., ICML 2022 (arXiv:2202.00449)
    drop, increase      of the probability, with the image masked by the heatmap. Chattopadhay et al., WACV 2018
                        (arXiv:1710.11063)
    randomised          rank correlation with the heatmap of the same model with random weights: a heatmap that survives
                        explains nothing; near 0 is better. Adebayo et al., NeurIPS 2018 (arXiv:1810.03292)
    instability         relative change of the heatmap under small noise on the image; lower is better. Yeh et al.,
                        NeurIPS 2019 (arXiv:1901.09392), with the mean in place of the maximum

A heatmap that is the same everywhere would be perfect by the last two: they are unknown (nan) for it, and so is the
correlation with such a heatmap.

:mod:`crackcam.evaluation.baselines` puts them into perspective.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np
import torch
from torch import nn

from crackcam.evaluation.baselines import BASELINES, Baseline
from crackcam.evaluation.scores import ScoredMethod, Scores, rank_correlation, score_table, score_text
from crackcam.models.loaded import LoadedModel
from crackcam.preprocessing import Preprocessing
from crackcam.progress import Progress

STEPS = 32  # of deletion and insertion
NOISE = 0.02 / 0.225  # half width of instability's noise: 0.02 of pixel values in 0..1, by ImageNet's deviation

# A model, inputs (N, 3, H, W) and class indices -> heatmaps (N, H, W), >= 0.
Explain = Callable[[nn.Module, torch.Tensor, list[int]], torch.Tensor]


@dataclass(frozen=True)
class FaithfulnessScores(Scores):
    """A heatmap against the model that it explains, or the mean of several. See the module for each."""

    deletion: float
    insertion: float
    road: float
    drop: float
    increase: float
    randomised: float
    instability: float


NAMES = [field.name for field in fields(FaithfulnessScores)]


@dataclass(frozen=True)
class ScoredHeatmaps(ScoredMethod[FaithfulnessScores]):
    """The scores of one method, or of a baseline: means over images.

    Attributes:
        images: the scores of each image.
    """

    images: tuple[FaithfulnessScores, ...]

    @classmethod
    def of(cls, method: str, baseline: bool, images: Sequence[FaithfulnessScores]) -> ScoredHeatmaps:
        """From the scores of each image; unknown ones are left out of the means."""
        known = _known(images)
        means = [float(values.mean()) if len(values) else math.nan for values in known]
        return cls(method, baseline, FaithfulnessScores(*means), tuple(images))

    @property
    def standard_errors(self) -> list[float]:
        """Of the means, in the order of :data:`NAMES`; nan where fewer than two images are known."""
        known = _known(self.images)
        return [float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan for values in known]

    def as_row(self) -> dict:
        """As in JSON and CSV: the means, and their standard errors as ``<name>_standard_error``."""
        errors = FaithfulnessScores(*self.standard_errors).as_row()
        return {**super().as_row(), **{f"{name}_standard_error": error for name, error in errors.items()}}

    def image_rows(self, files: Sequence[str | None]) -> list[dict]:
        """The scores of each image, as in CSV."""
        described = {"method": self.method, "baseline": self.baseline}
        return [{**described, "file": file, **scores.as_row()} for file, scores in zip(files, self.images, strict=True)]


def _known(images: Sequence[FaithfulnessScores]) -> list[np.ndarray]:
    """The values of each score that are not nan."""
    columns = np.array([astuple(scores) for scores in images]).T
    return [column[~np.isnan(column)] for column in columns]


def score_faithfulness(
    model: nn.Module, inputs: torch.Tensor, targets: list[int], explain: Explain, batch_size: int = 32, seed: int = 0
) -> list[FaithfulnessScores]:
    """Score heatmaps against the model that they explain.

    Args:
        model: maps (N, 3, H, W) to logits (N, K); in eval mode.
        inputs: (N, 3, H, W) as the model takes them.
        targets: class index for each.
        explain: makes the heatmaps. It is called three times.
        batch_size: images at a time.
        seed: of noise and random weights.

    Returns:
        The scores of each image.
    """
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.maps import normalize
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    heatmaps = normalize(explain(model, inputs, targets))
    arrays, softmax = heatmaps.cpu().numpy(), [ClassifierOutputSoftmaxTarget(target) for target in targets]
    generator = torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(inputs.shape, generator=generator) - 1).to(inputs) * NOISE
    noisy = normalize(explain(model, inputs + noise, targets))
    random = normalize(explain(with_random_weights(model, seed), inputs, targets)).cpu().numpy()
    change = (noisy - heatmaps).flatten(1).norm(dim=1) / heatmaps.flatten(1).norm(dim=1).clamp(min=1e-12)
    constant = heatmaps.flatten(1).amax(1) == heatmaps.flatten(1).amin(1)
    deletion, insertion = (
        perturbation_curve(model, inputs, heatmaps, targets, insert, batch_size).mean(axis=1)
        for insert in (False, True)
    )
    scores = (
        deletion,
        insertion,
        ROADCombined()(inputs, arrays, softmax, model),
        DropInConfidence()(inputs, arrays, softmax, model),
        IncreaseInConfidence()(inputs, arrays, softmax, model),
        [rank_correlation(a, b) for a, b in zip(arrays, random, strict=True)],
        change.masked_fill(constant, math.nan).tolist(),
    )
    return [FaithfulnessScores(*map(float, image)) for image in zip(*scores, strict=True)]


def compare_faithfulness(
    network: LoadedModel,
    explains: Mapping[str, Explain],
    pixels: torch.Tensor,
    targets: list[int],
    batch_size: int = 32,
) -> list[ScoredHeatmaps]:
    """Score methods and all baselines against the same model.

    Args:
        network: the model.
        explains: how each method makes its heatmaps.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each.
        batch_size: images at a time.

    Returns:
        The methods, highest insertion first, then the baselines likewise.
    """
    inputs = network.to_inputs(pixels)
    baselines = {name: _model_free(baseline, network.preprocessing) for name, baseline in BASELINES.items()}
    all_of_them = [(group is baselines, *item) for group in (explains, baselines) for item in group.items()]
    rows = [
        ScoredHeatmaps.of(name, baseline, score_faithfulness(network.model, inputs, targets, explain, batch_size))
        for baseline, name, explain in Progress("scoring", len(all_of_them), "method").over(all_of_them)
    ]
    return sorted(rows, key=lambda row: (row.baseline, -row.scores.insertion))


def _model_free(baseline: Baseline, preprocessing: Preprocessing) -> Explain:
    """A baseline as a method: it sees the pixels of the inputs, and no model."""

    def explain(model: nn.Module, inputs: torch.Tensor, targets: list[int]) -> torch.Tensor:
        images = preprocessing.denormalize(inputs).permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(np.stack([baseline(np.ascontiguousarray(image)) for image in images])).to(inputs)

    return explain


def faithfulness_table(rows: Sequence[ScoredHeatmaps]) -> str:
    """The comparison, for a terminal, with standard errors; arrows point to the better values."""
    names = ("deletion v", "insertion ^", "ROAD ^", "drop v", "increase ^", "randomised 0", "instability v")
    header = f"{'':<20}" + "".join(f"{name:>16}" for name in names)

    def line(row: ScoredHeatmaps) -> str:
        scores = zip(astuple(row.scores), row.standard_errors, strict=True)
        return f"{row.method:<20}" + "".join(f"{_with_error(*score):>16}" for score in scores)

    return score_table(header, rows, line)


def _with_error(score: float, error: float) -> str:
    """'0.123 ±0.010', without the error where it is unknown."""
    return score_text(score) if math.isnan(error) else f"{score_text(score)} ±{error:.3f}"


def perturbation_curve(
    model: nn.Module,
    inputs: torch.Tensor,
    heatmaps: torch.Tensor,
    targets: list[int],
    insert: bool,
    batch_size: int = 32,
) -> np.ndarray:
    """The target's probability as pixels are removed (to the mean colour) or inserted, highest first.

    Args:
        model: maps (N, 3, H, W) to logits (N, K).
        inputs: (N, 3, H, W).
        heatmaps: (N, H, W).
        targets: class index for each.
        insert: into a blurred image; else remove.
        batch_size: perturbed copies at a time.

    Returns:
        (N, STEPS) float32: the mean of each step's two ends, so that the mean of a row is the area by trapezoids.
    """
    curves, label = [], "insertion" if insert else "deletion"
    images = Progress(label, len(targets)).over(zip(inputs, heatmaps, targets, strict=True))
    for image, heatmap, target in images:
        empty = blur(image) if insert else torch.zeros_like(image)
        order = heatmap.flatten().argsort(descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        points = []
        for steps in torch.arange(STEPS + 1, device=heatmap.device).split(batch_size):
            chosen = (rank[None] * STEPS < steps[:, None] * len(rank)).reshape(-1, 1, *heatmap.shape)
            perturbed = torch.where(chosen, image, empty) if insert else torch.where(chosen, empty, image)
            with torch.no_grad():
                points.append(model(perturbed).float().softmax(dim=1)[:, target].cpu())
        curve = torch.cat(points).numpy()
        curves.append((curve[1:] + curve[:-1]) / 2)
    return np.stack(curves)


def blur(image: torch.Tensor) -> torch.Tensor:
    """An image (3, H, W) without detail: Gaussian blur with a twentieth of the longer side as standard deviation."""
    rows = image.permute(1, 2, 0).cpu().numpy()
    blurred = cv2.GaussianBlur(rows, (0, 0), max(rows.shape[:2]) / 20, borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(blurred).permute(2, 0, 1).to(image)


def with_random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the model with random weights, as its layers initialise them.

    Parameters of modules that cannot initialise themselves, such as torch's attention, and embeddings keep their
    values, shuffled.
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
