"""The first principal component of activations, as a map."""

import numpy as np
import torch


def principal_map(activations: torch.Tensor) -> torch.Tensor:
    """Projection of the places onto the first principal component of the channels.

    With X the (places x channels) matrix of one picture, centred over its places, the map is X v1. Only one
    singular vector is needed, so the eigenvectors of the smaller Gram matrix serve (X X' or X' X, in
    float64): 49 x 49 instead of 2048 x 2048 for the last stage of a ResNet-50. A component has no sign of
    its own: it is turned so that it grows with the sum of the channels.

    Args:
        activations: (N, C, *spatial) floating point.

    Returns:
        (N, *spatial) float32.
    """
    places = activations.detach().flatten(2).transpose(1, 2).double()
    total = places.sum(dim=2)
    places = places - places.mean(dim=1, keepdim=True)
    if places.shape[1] <= places.shape[2]:
        values, vectors = torch.linalg.eigh(places @ places.transpose(1, 2))
        component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(places.transpose(1, 2) @ places)
        component = (places @ vectors[..., -1:]).squeeze(2)
    agreement = (component * (total - total.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    component = torch.where(agreement < 0, -component, component)
    return component.float().reshape(activations.shape[0], *activations.shape[2:])


def get_2d_projection(activation_batch: np.ndarray) -> np.ndarray:
    """:func:`principal_map` on numpy arrays: (N, C, *spatial) in, (N, *spatial) float32 out."""
    return principal_map(torch.as_tensor(activation_batch)).numpy()
