"""The first principal component of activations, as a map: of tensors, and of numpy arrays.

The functions on arrays take NaN for 0. A component has no sign of its own; each function says how it chooses.
"""

import numpy as np
import torch

from pytorch_grad_cam.utils.maps import ROUNDING, align_sign_with_channel_sum


def principal_map(activations: torch.Tensor) -> torch.Tensor:
    """Projection of the places onto the first principal component of the channels.

    With X the (places x channels) matrix of one image, centred over its places, the map is X v1. Only one
    singular vector is needed, so the eigenvectors of the smaller Gram matrix serve (X X' or X' X, in
    float64): 49 x 49 instead of 2048 x 2048 for the last stage of a ResNet-50. A component has no sign of
    its own: it is turned so that it grows with the sum of the channels.

    Args:
        activations: (N, C, *spatial) floating point.

    Returns:
        (N, *spatial) float32: zeros where the places differ by no more than rounding, NaN where activations are not
        finite.
    """
    places = activations.detach().flatten(2).transpose(1, 2).double()
    places = places - places.mean(dim=1, keepdim=True)
    many = places.shape[1] > places.shape[2]
    gram = places.transpose(1, 2) @ places if many else places @ places.transpose(1, 2)
    if not gram.isfinite().all():
        return torch.full_like(activations[:, 0], torch.nan, dtype=torch.float32)
    values, vectors = torch.linalg.eigh(gram)
    if many:
        component = (places @ vectors[..., -1:]).squeeze(2)
    else:
        component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    largest = activations.detach().abs().flatten(1).amax(dim=1, keepdim=True)
    component = torch.where(component.abs().amax(dim=1, keepdim=True) > ROUNDING * largest, component, 0.0)
    component = component.reshape(activations.shape[0], *activations.shape[2:])
    return align_sign_with_channel_sum(component, activations.detach()).float()


def get_2d_projection(activation_batch: np.ndarray) -> np.ndarray:
    """:func:`principal_map` on numpy arrays: (N, C, *spatial) in, (N, *spatial) float32 out."""
    return principal_map(torch.as_tensor(_without_nan(activation_batch))).numpy()


def get_2d_projection_with_sign_correction(activation_batch: np.ndarray) -> np.ndarray:
    """:func:`get_2d_projection`, turned so that the value farthest from 0 is positive.

    Chung and Ying, Seg-Eigen-CAM, Applied Sciences 15(13), 2025 (doi:10.3390/app15137562), equation 13.

    Args:
        activation_batch: (N, C, *spatial).

    Returns:
        (N, *spatial) float32.
    """
    projection = get_2d_projection(activation_batch)
    spatial = tuple(range(1, projection.ndim))
    low, high = projection.min(axis=spatial, keepdims=True), projection.max(axis=spatial, keepdims=True)
    return np.where(np.abs(low) > np.abs(high), -projection, projection)


def get_2d_projection_kernel(
    activation_batch: np.ndarray, kernel: str = "sigmoid", gamma: float | None = None
) -> np.ndarray:
    """Projection of the places, centred, onto their first kernel principal component.

    The kernel matrix of an image is places x places. The sign is scikit-learn's: the place farthest from 0 is
    positive.

    Args:
        activation_batch: (N, C, *spatial).
        kernel: one of ``sklearn.decomposition.KernelPCA``.
        gamma: coefficient of the kernel; None: 1 / C.

    Returns:
        (N, *spatial) float32; zeros where the kernel cannot tell the places apart.
    """
    from sklearn.decomposition import KernelPCA  # slow to import, and only of use here
    from sklearn.metrics.pairwise import pairwise_kernels

    projections = np.zeros((len(activation_batch), int(np.prod(activation_batch.shape[2:]))), np.float32)
    for projection, activations in zip(projections, _without_nan(activation_batch), strict=True):
        places = activations.reshape(len(activations), -1).T.astype(np.float64)
        similarity = pairwise_kernels(places - places.mean(axis=0), metric=kernel, filter_params=True, gamma=gamma)
        if np.ptp(similarity) > 0:  # the solver for large matrices does not take one without variance
            # A fixed seed, since that solver starts at random.
            projection[:] = KernelPCA(1, kernel="precomputed", random_state=0).fit_transform(similarity)[:, 0]
    return projections.reshape(len(activation_batch), *activation_batch.shape[2:])


def _without_nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(array), 0, array)
