"""First principal component of activations as a map, for tensors and numpy arrays.

The functions on arrays treat NaN as 0. The sign of a component is arbitrary; each function documents its choice.
"""

import numpy as np
import torch

from pytorch_grad_cam.utils.maps import ROUNDING, align_sign_with_channel_sum


def principal_map(activations: torch.Tensor, by_strength: bool = False) -> torch.Tensor:
    """Project all spatial positions onto the first principal component of the channels.

    With X the (positions x channels) matrix of one image, centred over its positions, the map is X v1. Only one
    singular vector is needed, which is computed from the smaller Gram matrix (X X' or X' X, in float64): 49 x 49
    instead of 2048 x 2048 for the last stage of a ResNet-50. The sign is chosen such that the component correlates with
    the sum of the channels.

    Args:
        activations: (N, C, *spatial) floating point.
        by_strength: how the sign is chosen, see :func:`~pytorch_grad_cam.utils.maps.align_sign_with_channel_sum`.

    Returns:
        (N, *spatial) float32: zeros where the positions differ by no more than rounding, NaN where activations are not
        finite.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.svd_on_activations import principal_map
        >>> principal_map(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()  # one channel: centred
        [[-1.0, 0.0, 1.0]]
    """
    positions = activations.detach().flatten(2).transpose(1, 2).double()
    positions = positions - positions.mean(dim=1, keepdim=True)
    many = positions.shape[1] > positions.shape[2]
    gram = positions.transpose(1, 2) @ positions if many else positions @ positions.transpose(1, 2)
    if not gram.isfinite().all():
        return torch.full_like(activations[:, 0], torch.nan, dtype=torch.float32)
    values, vectors = torch.linalg.eigh(gram)
    if many:
        component = (positions @ vectors[..., -1:]).squeeze(2)
    else:
        component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    largest = activations.detach().abs().flatten(1).amax(dim=1, keepdim=True)
    component = torch.where(component.abs().amax(dim=1, keepdim=True) > ROUNDING * largest, component, 0.0)
    component = component.reshape(activations.shape[0], *activations.shape[2:])
    return align_sign_with_channel_sum(component, activations.detach(), by_strength).float()


def get_2d_projection(activation_batch: np.ndarray) -> np.ndarray:
    """Apply :func:`principal_map` to numpy arrays: (N, C, *spatial) in, (N, *spatial) float32 out.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
        >>> get_2d_projection(np.random.default_rng(0).random((2, 8, 7, 7))).shape
        (2, 7, 7)
    """
    return principal_map(torch.as_tensor(_without_nan(activation_batch))).numpy()


def get_2d_projection_with_sign_correction(activation_batch: np.ndarray) -> np.ndarray:
    """:func:`get_2d_projection`, with the sign that makes the value of largest magnitude positive.

    Chung and Ying, Seg-Eigen-CAM, Applied Sciences 15(13), 2025 (doi:10.3390/app15137562), equation 13.

    Args:
        activation_batch: (N, C, *spatial).

    Returns:
        (N, *spatial) float32.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
        >>> get_2d_projection_with_sign_correction(np.array([[[0.0, 3.0, 3.0]]])).tolist()
        [[2.0, -1.0, -1.0]]
    """
    projection = get_2d_projection(activation_batch)
    spatial = tuple(range(1, projection.ndim))
    low, high = projection.min(axis=spatial, keepdims=True), projection.max(axis=spatial, keepdims=True)
    return np.where(np.abs(low) > np.abs(high), -projection, projection)


def get_2d_projection_kernel(
    activation_batch: np.ndarray, kernel: str = "sigmoid", gamma: float | None = None
) -> np.ndarray:
    """Project all centred spatial positions onto their first kernel principal component.

    The kernel matrix of an image is positions x positions. The sign is scikit-learn's: the value of largest magnitude
    is positive.

    Args:
        activation_batch: (N, C, *spatial).
        kernel: a kernel of ``sklearn.decomposition.KernelPCA``.
        gamma: coefficient of the kernel; None: 1 / C.

    Returns:
        (N, *spatial) float32; zeros where the kernel matrix is constant.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel
        >>> get_2d_projection_kernel(np.random.default_rng(0).random((2, 8, 5, 5)), kernel="rbf").shape
        (2, 5, 5)
    """
    from sklearn.decomposition import KernelPCA  # slow to import, and needed only here
    from sklearn.metrics.pairwise import pairwise_kernels

    projections = np.zeros((len(activation_batch), int(np.prod(activation_batch.shape[2:]))), np.float32)
    for projection, activations in zip(projections, _without_nan(activation_batch), strict=True):
        positions = activations.reshape(len(activations), -1).T.astype(np.float64)
        centred = positions - positions.mean(axis=0)
        similarity = pairwise_kernels(centred, metric=kernel, filter_params=True, gamma=gamma)
        if np.ptp(similarity) > 0:  # the solver for large matrices rejects one without variance
            # A fixed seed, since that solver has a random start.
            projection[:] = KernelPCA(1, kernel="precomputed", random_state=0).fit_transform(similarity)[:, 0]
    return projections.reshape(len(activation_batch), *activation_batch.shape[2:])


def _without_nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(array), 0, array)
