"""ROAD: remove pixels in the order of their relevance, impute them from their neighbours, and score again.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022 (arXiv:2202.00449).
A removed pixel becomes the weighted mean of its neighbours, plus a little noise, so that the shape of the removed
region carries little information. Images are (C, H, W).

If the map is faithful, the score falls early when the most relevant pixels are removed first, and late when the least
relevant are. :class:`ROADCombined` is half the difference: in [-0.5, 0.5] for probabilities, higher is better.

Results are reproducible: noise comes from a separate generator with a fixed seed, and is the same for every image of a
size. The score of an image thus does not depend on the rest of the batch, and maps are compared under equal noise.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array, kron
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from pytorch_grad_cam.activations_and_gradients import Module
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PERCENTILES,
    AveragerAcrossThresholds,
    Percentile,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
    metric_values,
)
from pytorch_grad_cam.outputs import Targets

Weighting = Sequence[tuple[tuple[int, int], float]]

# As in the paper: direct neighbours have twice the weight of diagonal ones.
neighbors_weights: Weighting = tuple(
    ((dy, dx), 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
)


class NoisyLinearImputer:
    """Impute removed pixels: each becomes the weighted mean of its neighbours within the image, plus noise.

    The means of all removed pixels are the solution of one sparse linear system, factorised once for all channels.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        noise: standard deviation of the Gaussian noise added to each imputed value, in the image's unit.
        weighting: pairs of an offset (rows, columns) and a weight >= 0. Weights are relative: a mean divides by the
            sum of the weights of the neighbours within the image.
        seed: seed of the noise.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.road import NoisyLinearImputer
        >>> impute = NoisyLinearImputer(noise=0, weighting=[((0, -1), 1.0), ((0, 1), 1.0)])  # left and right
        >>> impute(torch.tensor([[[0.0, 99.0, 6.0]]]), torch.tensor([[1, 0, 1]])).tolist()
        [[[0.0, 3.0, 6.0]]]
    """

    def __init__(self, noise: float = 0.01, weighting: Weighting = neighbors_weights, *, seed: int = 0) -> None:
        self.noise = noise
        self.weighting = weighting
        self.seed = seed

    def __call__(self, img: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Impute the removed pixels of an image.

        Args:
            img: (C, H, W) float.
            mask: (H, W); 0 marks the pixels to impute, any other value those that are kept.

        Returns:
            (C, H, W) with device and dtype of ``img``; a new tensor.

        Raises:
            ValueError: no chain of neighbours connects some removed pixels to a kept one.
        """
        missing = (mask == 0).flatten().cpu()
        filled = img.detach().clone().flatten(1)
        if missing.any():
            noise = torch.randn(filled.shape, generator=torch.Generator().manual_seed(self.seed))[:, missing]
            values = self._means(filled.double().cpu().numpy(), missing.numpy(), tuple(mask.shape))
            filled[:, missing.to(img.device)] = (torch.from_numpy(values) + self.noise * noise).to(filled)
        return filled.reshape(img.shape)

    def _means(self, values: np.ndarray, missing: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """Means of the missing pixels (HW,) bool of the values (C, HW): (C, number of missing pixels)."""
        weighting = tuple(((int(dy), int(dx)), float(weight)) for (dy, dx), weight in self.weighting)
        weights = neighbourhood(*size, weighting)[missing]
        among, outwards = weights[:, missing], weights[:, ~missing]
        _, region = connected_components(among, directed=False)
        if not np.bincount(region, weights=outwards.sum(axis=1)).all():
            raise ValueError("no chain of neighbours connects some removed pixels to a kept one")
        system = diags_array(weights.sum(axis=1)) - among
        # No pivoting, since the diagonal dominates; an ordering for symmetric patterns, since neighbours are mutual.
        solver = splu(
            system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        return solver.solve(outwards @ values[:, ~missing].T).T


@lru_cache(maxsize=1)
def neighbourhood(height: int, width: int, weighting: tuple[tuple[tuple[int, int], float], ...]) -> csr_array:
    """(HW, HW) matrix whose row i contains the weights of the neighbours of pixel i within the image."""
    shifts = (weight * kron(eye_array(height, k=dy), eye_array(width, k=dx)) for (dy, dx), weight in weighting)
    return csr_array(sum(shifts))


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """Change of the score when the most relevant pixels are removed: the lower, the better the map.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        percentile: percentage of pixels kept, or ``"auto"``; see :class:`RemoveMostRelevantFirst`.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
        >>> images, maps, model = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), torch.nn.Flatten()
        >>> ROADMostRelevantFirst(75)(images, maps, [0, 1], model).shape
        (2,)
    """

    def __init__(self, percentile: Percentile = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """Change of the score when the least relevant pixels are removed: the higher, the better the map.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        percentile: percentage of pixels kept, or ``"auto"``; see :class:`RemoveLeastRelevantFirst`.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst
        >>> images, maps, model = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), torch.nn.Flatten()
        >>> ROADLeastRelevantFirst(75)(images, maps, [0, 1], model).shape
        (2,)
    """

    def __init__(self, percentile: Percentile = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """Mean of :class:`ROADMostRelevantFirst` over percentiles.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        percentiles: percentages of pixels kept.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
        >>> images, maps, model = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), torch.nn.Flatten()
        >>> ROADMostRelevantFirstAverage([20, 80])(images, maps, [0, 1], model).shape
        (2,)
    """

    def __init__(self, percentiles: Sequence[Percentile] = PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """Mean of :class:`ROADLeastRelevantFirst` over percentiles.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        percentiles: percentages of pixels kept.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirstAverage
        >>> images, maps, model = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), torch.nn.Flatten()
        >>> ROADLeastRelevantFirstAverage([20, 80])(images, maps, [0, 1], model).shape
        (2,)
    """

    def __init__(self, percentiles: Sequence[Percentile] = PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """(least relevant first - most relevant first) / 2, each the mean over the percentiles; higher is better.

    Rong et al., ICML 2022 (arXiv:2202.00449).

    Args:
        percentiles: percentages of pixels kept.

    Attributes:
        batch_size: number of perturbed images per forward pass.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from pytorch_grad_cam.metrics.road import ROADCombined
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
        >>> images, targets = torch.rand(2, 3, 16, 16), [ClassifierOutputSoftmaxTarget(0)] * 2
        >>> ROADCombined([20, 80])(images, GradCAM(model, ["1"])(images, targets), targets, model).shape
        (2,)
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
        values = metric_values([*least, *most], input_tensor, cams, targets, model, self.batch_size)
        return (values[: len(least)].mean(axis=0) - values[len(least) :].mean(axis=0)) / 2
