"""ROAD: remove pixels in the order of their relevance, fill in what can be guessed, and score again.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022 (arXiv:2202.00449).
A removed pixel becomes the weighted mean of its neighbours, plus a little noise: little is left to read from the
shape of the hole. Pictures are (C, H, W).

If the map is right, the score falls soon when the most relevant pixels go first, and late when the least relevant
do. :class:`ROADCombined` is half the difference: in [-0.5, 0.5] for probabilities, higher is better.

Nothing here is random between calls: noise comes from a generator of its own with a fixed seed, and is the same
field for every picture of a size. So the score of a picture does not depend on what else is in the batch, and maps
are compared under equal noise.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from pytorch_grad_cam.activations_and_gradients import Module
from pytorch_grad_cam.batches import Targets
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PERCENTILES,
    AveragerAcrossThresholds,
    Percentile,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
    changes,
)

Weighting = Sequence[tuple[tuple[int, int], float]]

# The paper's: direct neighbours count twice as much as diagonal ones.
neighbors_weights: Weighting = tuple(
    ((dy, dx), 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
)


class NoisyLinearImputer:
    """Fills removed pixels: each is the weighted mean of its neighbours within the picture, plus noise.

    The means of all removed pixels are one sparse linear system, factorised once for all channels.

    Args:
        noise: standard deviation of the normal noise added to each filled value, in the picture's unit.
        weighting: pairs of an offset (rows, columns) and a weight >= 0. Weights are relative: a mean divides
            by the sum of those whose neighbours lie within the picture.
        seed: of the noise.
    """

    def __init__(self, noise: float = 0.01, weighting: Weighting = neighbors_weights, *, seed: int = 0) -> None:
        self.noise = noise
        self.weighting = weighting
        self.seed = seed

    def __call__(self, img: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The picture with its removed pixels filled in.

        Args:
            img: (C, H, W) float.
            mask: (H, W); 0 marks the pixels to fill, anything else those that are kept.

        Returns:
            (C, H, W) with device and dtype of ``img``; a new tensor.

        Raises:
            ValueError: there are removed pixels that no chain of neighbours joins to a kept one.
        """
        missing = (mask == 0).flatten().cpu()
        filled = img.detach().clone().flatten(1)
        if missing.any():
            noise = torch.randn(filled.shape, generator=torch.Generator().manual_seed(self.seed))[:, missing]
            values = self._means(filled.double().cpu().numpy(), missing.numpy(), tuple(mask.shape))
            filled[:, missing.to(img.device)] = (torch.from_numpy(values) + self.noise * noise).to(filled)
        return filled.reshape(img.shape)

    def _means(self, values: np.ndarray, missing: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """Values (C, HW), of which those that are missing (HW,) are unknown: these, (C, number missing)."""
        weighting = tuple(((int(dy), int(dx)), float(weight)) for (dy, dx), weight in self.weighting)
        weights = neighbourhood(*size, weighting)[missing]
        among, outwards = weights[:, missing], weights[:, ~missing]
        _, region = connected_components(among, directed=False)
        if not np.bincount(region, weights=outwards.sum(axis=1)).all():
            raise ValueError("no chain of neighbours joins some removed pixels to a kept one")
        system = diags_array(weights.sum(axis=1)) - among
        # No pivoting: the diagonal dominates. The ordering is the one for symmetric patterns, which neighbours have.
        solver = splu(
            system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        return solver.solve(outwards @ values[:, ~missing].T).T


@lru_cache(maxsize=1)
def neighbourhood(height: int, width: int, weighting: tuple[tuple[tuple[int, int], float], ...]) -> csr_array:
    """(HW, HW) matrix whose row i has the weights of the neighbours of pixel i that lie within the picture."""
    shifts = (weight * kron(eye_array(height, k=dy), eye_array(width, k=dx)) for (dy, dx), weight in weighting)
    return csr_array(sum(shifts))


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """Change of the score when the most relevant pixels are removed: the lower, the better the map.

    Args:
        percentile: percentage of pixels kept, or ``"auto"``; see :class:`RemoveMostRelevantFirst`.
    """

    def __init__(self, percentile: Percentile = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """Change of the score when the least relevant pixels are removed: the higher, the better the map.

    Args:
        percentile: percentage of pixels kept, or ``"auto"``; see :class:`RemoveLeastRelevantFirst`.
    """

    def __init__(self, percentile: Percentile = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADMostRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[Percentile] = PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADLeastRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[Percentile] = PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """(least relevant first - most relevant first) / 2, each the mean over the percentiles.

    Attributes:
        batch_size: perturbed pictures that the model sees at a time.
    """

    batch_size: int = 32

    def __init__(self, percentiles: Sequence[Percentile] = PERCENTILES) -> None:
        self.percentiles = list(percentiles)
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(
        self, input_tensor: torch.Tensor, cams: np.ndarray | torch.Tensor, targets: Targets, model: Module
    ) -> np.ndarray:
        """(N,) float32; arguments and errors of :class:`PerturbationConfidenceMetric`."""
        least, most = self.lerf_averager.metrics(), self.morf_averager.metrics()
        found = changes([*least, *most], input_tensor, cams, targets, model, self.batch_size)
        return (found[: len(least)].mean(axis=0) - found[len(least) :].mean(axis=0)) / 2
