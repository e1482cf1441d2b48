"""Pictures and a method's name -> heat maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from crackcam.console import UserError, write_atomically
from crackcam.images import Geometry, Picture
from crackcam.methods import METHODS, method_class
from crackcam.model import TargetLayer
from crackcam.predicting import Network

if TYPE_CHECKING:
    from crackcam.figures import Style


def heat_maps(
    network: Network, method: str, layers: list[TargetLayer], pixels: torch.Tensor, targets: list[int],
    *, batch_size: int = 32, aug_smooth: bool = False, eigen_smooth: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Explain pictures.

    Args:
        method: a name in :data:`crackcam.methods.METHODS`.
        layers: target layers.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each picture.
        batch_size: pictures at a time; masked pictures too, in methods that make them, but no more than they like.
        aug_smooth, eigen_smooth: as in :class:`pytorch_grad_cam.BaseCAM`.

    Returns:
        (N, size, size) float32 on the device, >= 0, in the method's own unit; (N, 3, size, size), signed, where the
        method makes pictures.

    Raises:
        UserError: the method cannot explain this network; the message says why.
    """
    explain = _method(network, method, layers)
    smoothing: dict[str, Any] = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth, "normalize": False}
    if METHODS[method].picture:
        if aug_smooth or eigen_smooth:
            raise UserError(f"{method} makes pictures, not maps: nothing to smooth")
        smoothing = {}
    else:
        explain.batch_size = min(batch_size, explain.batch_size)
    maps = []
    with of_engine(method):
        for start in range(0, len(pixels), batch_size):
            inputs = network.machine.input(pixels[start : start + batch_size])
            chosen = targets[start : start + batch_size]
            with network.machine.autocast():
                maps.append((explain.maps if smoothing else explain.gradients)(inputs, chosen, **smoothing))
    return torch.cat(maps)


@contextmanager
def of_engine(method: str) -> Iterator[None]:
    """Turns what the engine says against a network into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{method} cannot explain this: {error}") from error


def _method(network: Network, method: str, layers: list[TargetLayer]) -> Any:
    """The method, bound to the network."""
    if method == "guidedbackprop":
        return method_class(method)(network.model)
    reshape = next((layer.reshape for layer in layers if layer.reshape), None)
    return method_class(method)(network.model, [layer.module for layer in layers], reshape)


class Anatomy(NamedTuple):
    """The steps of Grad-CAM on one picture, at the layer's own resolution, on the CPU.

    Attributes:
        activations: (C, h, w) float32 what the layer puts out.
        gradients: (C, h, w) float32 of the explained logit with respect to them.
        weights: (C,) float32, mean gradient of each channel.
        signed: (h, w) float32, sum of the weighted channels, before the ReLU.
        heat: (size, size) float32, after ReLU and enlargement to the network's input.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    weights: torch.Tensor
    signed: torch.Tensor
    heat: torch.Tensor


def anatomy(network: Network, layer: TargetLayer, pixels: torch.Tensor, target: int) -> Anatomy:
    """Grad-CAM step by step.

    Args:
        layer: target layer.
        pixels: (1, 3, size, size) uint8.
        target: class index.
    """
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
    from pytorch_grad_cam.utils.maps import resize

    recorder = ActivationsAndGradients(network.model, [layer.module], layer.reshape)
    logits = recorder(network.machine.input(pixels))
    (gradients,) = recorder.differentiate(logits[0, target].float())
    activations, gradients = recorder.activations[0][0].cpu(), gradients[0].cpu()
    weights = gradients.mean(dim=(1, 2))
    signed = torch.einsum("c,chw->hw", weights, activations)
    return Anatomy(activations, gradients, weights, signed, resize(signed.relu()[None], tuple(pixels.shape[2:]))[0])


def as_map(heat: torch.Tensor) -> torch.Tensor:
    """A map (H, W) as it is; of a signed picture (3, H, W), its largest size over the colours."""
    return heat if heat.ndim == 2 else heat.abs().amax(dim=0)


def drawn(heat: torch.Tensor, picture: np.ndarray, geometry: Geometry, style: Style) -> np.ndarray:
    """What is shown of a map, over the picture, or of a signed picture, grey where it is 0.

    Args:
        heat: (size, size) or (3, size, size).
        picture: (H, W, 3) uint8.
        geometry: how the picture became the network's input.
        style: how maps are shown.

    Returns:
        (H, W, 3) uint8.
    """
    from crackcam.figures import styled

    shown = stretched(heat, picture.shape[:2], geometry)
    return styled(picture, shown, style) if heat.ndim == 2 else shown


def stretched(heat: torch.Tensor, size: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """A map over all of its range, for the eye, over a picture of that height and width.

    Returns:
        (H, W) float32 in [0, 1]; of a signed picture (3, size, size), (H, W, 3) uint8, grey where it is 0.
    """
    from pytorch_grad_cam.utils.image import deprocess_image
    from pytorch_grad_cam.utils.maps import normalize

    picture = np.empty((*size, 0))
    if heat.ndim == 2:
        return at_picture_size(normalize(heat[None])[0], picture, geometry)
    return deprocess_image(np.stack([at_picture_size(colour, picture, geometry) for colour in heat], axis=-1))


def small_maps(
    heats: Mapping[str, Iterable[torch.Tensor]], pictures: list[np.ndarray], geometry: Geometry, side: int
) -> dict[str, list[np.ndarray]]:
    """Maps of 8 bits for a report, whose longer side is ``side`` or that of the picture, if that is smaller.

    Returns:
        By method, for each picture: :func:`stretched`, as uint8.
    """

    def small(heat: torch.Tensor, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        scale = min(1, side / max(height, width))
        found = stretched(heat, (max(1, round(height * scale)), max(1, round(width * scale))), geometry)
        return found if found.ndim == 3 else np.rint(found * 255).astype(np.uint8)

    return {
        method: [small(heat, picture) for heat, picture in zip(of_method, pictures, strict=True)]
        for method, of_method in heats.items()
    }


def at_picture_size(heat: torch.Tensor, picture: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A map (size, size) of the network's input, laid over the picture that it was made from.

    Returns:
        (H, W) float32; 0 where the picture was cropped away.
    """
    from pytorch_grad_cam.utils.maps import resize

    seen = np.zeros(picture.shape[:2], np.float32)
    window = geometry.seen(*picture.shape[:2])
    seen[window] = resize(heat[None], seen[window].shape)[0].cpu().numpy()
    return seen


def at_picture_sizes(heats: torch.Tensor, pictures: list[Picture], geometry: Geometry) -> list[np.ndarray]:
    """:func:`at_picture_size` for many: (N, size, size), or signed pictures (N, 3, size, size)."""
    return [at_picture_size(as_map(heat), item.pixels, geometry) for heat, item in zip(heats, pictures, strict=True)]


def check_names(pictures: list[Path]) -> None:
    """Raises UserError where the maps of two pictures would have one name."""
    if len({path.stem for path in pictures}) < len(pictures):
        raise UserError("two of the pictures have the same name: their maps would overwrite each other")


def save_map(folder: Path, picture: Path, heat: np.ndarray, method: str = "") -> str:
    """Write a map (H, W) float32 as <stem>.npy, or <stem>_<method>.npy; returns the file's name."""
    path = folder / f"{picture.stem}{f'_{method}' if method else ''}.npy"
    write_atomically(path, lambda temporary: np.save(temporary, heat))
    return str(path)
