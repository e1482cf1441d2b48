"""Pictures and a method's name -> heat maps."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from crackcam.classifier import predict, stacked
from crackcam.errors import UserError
from crackcam.explain.refinement import refine
from crackcam.files import write_atomically
from crackcam.methods import (
    BEST,
    BEST_FUSE,
    BEST_OF_ENGINE,
    BEST_STRIDE,
    EVIDENCE,
    NAMED,
    OWN,
    SHARING,
    STRETCHED,
    method_class,
)
from crackcam.models.checks import takes_size
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.output_stride import can_dilate
from crackcam.models.target_layers import TargetLayer, find_target_layers
from crackcam.preprocessing import Preprocessing, pad_to
from pytorch_grad_cam.sess import starts
from pytorch_grad_cam.utils.maps import normalize, resize

if TYPE_CHECKING:
    from crackcam.evaluation.faithfulness import Explain
    from crackcam.render.overlays import Style

logger = logging.getLogger(__name__)


def heatmaps(
    network: LoadedModel, method: str, layers: list[TargetLayer], pixels: torch.Tensor, targets: list[int],
    *, batch_size: int = 32, aug_smooth: bool = False, eigen_smooth: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Explain pictures.

    Args:
        method: a name in :data:`crackcam.methods.NAMED`.
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
    if method == EVIDENCE:
        if aug_smooth or eigen_smooth:
            raise UserError(f"{EVIDENCE} is the decision itself: leave --aug-smooth and --eigen-smooth out")
        return evidence_maps(network, pixels, targets, batch_size)
    explain = _method(network, method, layers)
    smoothing: dict[str, Any] = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth, "normalize": False}
    if NAMED[method].signed_image:
        if aug_smooth or eigen_smooth:
            raise UserError(f"{method} makes pictures, not maps: nothing to smooth")
        smoothing = {}
    else:
        explain.batch_size = min(batch_size, explain.batch_size)
    maps = []
    with of_engine(method):
        for start in range(0, len(pixels), batch_size):
            inputs = network.to_inputs(pixels[start : start + batch_size])
            chosen = targets[start : start + batch_size]
            with network.runtime.autocast():
                maps.append((explain.maps if smoothing else explain.gradients)(inputs, chosen, **smoothing))
    return torch.cat(maps)


class Explained(NamedTuple):
    """Pictures as the methods see them.

    Attributes:
        probabilities: (N, classes) float32.
        targets: class index that each map explains.
        heats: maps by method, see :func:`merged_maps`.
        seconds: by method.
    """

    probabilities: np.ndarray
    targets: list[int]
    heats: dict[str, list[torch.Tensor]]
    seconds: dict[str, float]


def by_methods(
    args: argparse.Namespace, network: LoadedModel, finer: LoadedModel, layers: dict[str, list[TargetLayer]],
    pixels: torch.Tensor, pictures: list[np.ndarray], wanted: int | None, named: str,
) -> Explained:  # fmt: skip
    """Predict pictures, and explain them by all methods asked for; where there are several, those that can.

    Args:
        layers: target layers by method.
        named: class to explain, in words.

    The others are those of :func:`explained`.

    Raises:
        UserError: none can explain this network.
    """
    one_run = len(args.method) == 1 and not args.verify  # which compares times of the method alone
    found = Explained(np.empty(0), [], {}, {})
    if not one_run:
        chances = predict(network, pixels, args.batch_size)
        found = found._replace(
            probabilities=chances, targets=[int(row.argmax()) if wanted is None else wanted for row in chances]
        )
    for method in args.method:
        logger.info(f"{method} at {', '.join(layer.name for layer in layers[method])}, explaining {named}")
        if method != EVIDENCE:
            method_class(method)  # imported now: its time is not the method's
        start = time.perf_counter()
        try:
            if one_run:
                chances, targets, heats = explained(
                    args, network, finer, method, layers[method], pixels, pictures, wanted
                )
                found = found._replace(probabilities=chances, targets=targets)
            else:
                heats = merged_maps(
                    finer, method, layers[method], pixels, pictures, found.targets, args.scales, args.fuse,
                    batch_size=args.batch_size, aug_smooth=args.aug_smooth, eigen_smooth=args.eigen_smooth,
                )  # fmt: skip
            found.heats[method] = heats
        except UserError as error:
            if len(args.method) == 1:
                raise
            logger.warning(f"left out {error}")
        found.seconds[method] = time.perf_counter() - start
    if not found.heats:
        raise UserError("none of these methods can explain this network")
    return found


def explained(
    args: argparse.Namespace, network: LoadedModel, finer: LoadedModel, method: str, layers: list[TargetLayer],
    pixels: torch.Tensor, pictures: list[np.ndarray], wanted: int | None,
) -> tuple[np.ndarray, list[int], list[torch.Tensor]]:  # fmt: skip
    """What the network says of a batch, and maps of it: from one run of the network where the method makes do with one.

    Args:
        network: what predicts.
        finer: what is explained: the same, or dilated.
        pixels: (N, 3, size, size) uint8.
        pictures: (H, W, 3) uint8 each, what they were made from; for ``--scales``.
        wanted: class to explain; None: the one predicted.

    Returns:
        Probabilities (N, classes) float32; the class that each map explains; the maps, as :func:`merged_maps` returns
        them.
    """
    smoothing = {"aug_smooth": args.aug_smooth, "eigen_smooth": args.eigen_smooth}
    plain = finer is network and not args.fuse and (args.scales or [1]) == [1] and not args.aug_smooth
    if plain and NAMED[method].passes == "1" and not NAMED[method].signed_image and len(pixels) <= args.batch_size:
        chances, made = _in_one_run(network, method, layers, pixels, wanted, args.eigen_smooth)
        targets = [int(row.argmax()) if wanted is None else wanted for row in chances]
        return chances, targets, _unframed(made, pictures, network.card.preprocessing)
    chances = predict(network, pixels, args.batch_size)
    targets = [int(row.argmax()) if wanted is None else wanted for row in chances]
    heats = merged_maps(
        finer, method, layers, pixels, pictures, targets, args.scales, args.fuse, batch_size=args.batch_size,
        **smoothing,
    )  # fmt: skip
    return chances, targets, heats


def _in_one_run(
    network: LoadedModel, method: str, layers: list[TargetLayer], pixels: torch.Tensor, wanted: int | None,
    eigen_smooth: bool,
) -> tuple[np.ndarray, torch.Tensor]:  # fmt: skip
    """Probabilities and maps of one batch."""
    if method == EVIDENCE:
        return _evidence_in_one_run(network, pixels, wanted, eigen_smooth)
    explain = _method(network, method, layers)
    chosen = None if wanted is None else [wanted] * len(pixels)
    with of_engine(method), network.runtime.autocast():
        heats = explain.maps(network.to_inputs(pixels), chosen, eigen_smooth=eigen_smooth, normalize=False)
    return explain.outputs.float().softmax(1).cpu().numpy(), heats


def settle_best(args: argparse.Namespace, network: LoadedModel) -> None:
    """Puts what ``--method best`` means for a network into the flags, and says it.

    Measured on pictures of cracks with masks (docs/experiments.md): the map of a multiscale head; of other networks
    LayerCAM of three layers, multiplied, on a grid made finer by dilation. What a network cannot do is left out.
    """
    if args.method != [BEST]:
        return
    args.method = [EVIDENCE]
    if not isinstance(network.model, Multiscale):
        args.method = [BEST_OF_ENGINE]
        if not args.layer and len(find_target_layers(network.model, network.card.image_size, stages=True)) > 1:
            args.fuse = args.fuse or BEST_FUSE
        if not args.layer and not args.stride and can_dilate(network.model, BEST_STRIDE, network.card.image_size):
            args.stride = BEST_STRIDE
    flags = [f" --{name} {value}" for name, value in (("stride", args.stride), ("fuse", args.fuse)) if value]
    logger.info(f"best: --method {args.method[0]}{''.join(flags)}")


def evidence_maps(network: LoadedModel, pixels: torch.Tensor, targets: list[int], batch_size: int = 32) -> torch.Tensor:
    """How much each place speaks for the class, as a probability: what the logits of a multiscale head are sums of.

    Args:
        pixels: (N, 3, size, size) uint8.
        targets: class index for each picture.

    Returns:
        (N, size, size) float32 in 0..1; 0 for a class that is the absence of others.

    Raises:
        UserError: the network has another head.
    """
    maps = []
    for start in range(0, len(pixels), batch_size):
        evidence, _ = _evidence(network, pixels[start : start + batch_size])
        maps.append(_evidence_for(network, evidence, targets[start : start + batch_size], pixels))
    return torch.cat(maps)


def _evidence_in_one_run(
    network: LoadedModel, pixels: torch.Tensor, wanted: int | None, eigen_smooth: bool
) -> tuple[np.ndarray, torch.Tensor]:
    if eigen_smooth:
        raise UserError(f"{EVIDENCE} is the decision itself: leave --aug-smooth and --eigen-smooth out")
    evidence, logits = _evidence(network, pixels)
    chances = logits.float().softmax(1).cpu().numpy()
    targets = [int(row.argmax()) if wanted is None else wanted for row in chances]
    return chances, _evidence_for(network, evidence, targets, pixels)


def _evidence(network: LoadedModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a batch: evidence (N, classes, h, w), and the logits that are made of it."""
    model = network.model
    if not isinstance(model, Multiscale):
        raise UserError(f"--method {EVIDENCE} shows what --head multiscale decides by: train with it")
    with torch.inference_mode(), network.runtime.autocast():
        evidence = model.evidence(network.to_inputs(pixels))
        return evidence, model.pool(evidence)


def _evidence_for(
    network: LoadedModel, evidence: torch.Tensor, targets: list[int], pixels: torch.Tensor
) -> torch.Tensor:
    """The map of each picture's target, (N, size, size)."""
    with torch.inference_mode():
        speaking = cast(Multiscale, network.model).speaking[targets, None, None]
        return resize(evidence[range(len(targets)), targets].sigmoid() * speaking, tuple(pixels.shape[2:]))


def merged_maps(
    network: LoadedModel, method: str, layers: list[TargetLayer], pixels: torch.Tensor, pictures: list[np.ndarray],
    targets: list[int], scales: Sequence[float | str] | None = None, fuse: str | None = None, **settings: Any,
) -> list[torch.Tensor]:  # fmt: skip
    """:func:`heat_maps` of pictures at several scales and of several layers, merged.

    Args:
        pixels: (N, 3, size, size) uint8.
        pictures: (H, W, 3) uint8 each, what they were made from.
        scales: multiples of the network's size, and :data:`OWN`: the picture as it is, in tiles. Merged is their mean.
        fuse: ``mean`` or ``product`` (geometric mean) of the maps of several layers, each divided by its maximum.
        settings: of :func:`heat_maps`, as are the other arguments.

    Returns:
        For each picture a map (h, w) of what the network sees of it, without a frame, of the largest scale.
        In the unit of the network's own size, whatever the scale; of several layers in [0, 1].

    Raises:
        UserError: the method, or the network, cannot do that.
    """
    size, preprocessing = network.card.image_size, network.card.preprocessing
    if not fuse and (scales or [1]) == [1]:
        maps = heatmaps(network, method, layers, pixels, targets, **settings)
        return _unframed(maps, pictures, preprocessing)
    if NAMED[method].signed_image:
        raise UserError(f"{method} makes pictures, not maps: leave --scales and --fuse out")
    if fuse and NAMED[method].multi_layer:
        raise UserError(f"{method} multiplies the maps of its layers itself: leave --fuse out")
    if fuse and len(layers) == 1:
        raise UserError(f"--fuse merges layers, and there is {layers[0].name} alone: name others with --layer")
    scales = scales or [1]
    if len(layers) > 1 and not NAMED[method].multi_layer:
        each = [
            merged_maps(network, method, [layer], pixels, pictures, targets, scales, **settings) for layer in layers
        ]
        return [fused(of_picture, fuse) for of_picture in zip(*each, strict=True)]
    multiples = [scale for scale in scales if not isinstance(scale, str)]
    for side in {preprocessing.at_scale(scale).size for scale in (*multiples, *[2.0] * (OWN in scales))} - {size}:
        if not takes_size(network.model, side):
            raise UserError(f"{network.card.arch} takes pictures of {size} px only: leave --scales out")
    if OWN in scales:
        sides = [picture[preprocessing.seen(*picture.shape[:2])].shape[:2] for picture in pictures]
    else:
        largest = preprocessing.at_scale(max(multiples))
        sides = [tuple(s.stop - s.start for s in largest.inside(*picture.shape[:2])) for picture in pictures]
    merged = [torch.zeros(of_picture) for of_picture in sides]
    for scale in scales:
        if isinstance(scale, str):
            of_scale: Iterable[torch.Tensor] = tiled_maps(network, method, layers, pictures, targets, **settings)
        else:
            of_scale = _scaled_maps(network, method, layers, pixels, pictures, targets, scale, **settings)
        for total, heat, picture in zip(merged, of_scale, pictures, strict=True):
            if scale != OWN:
                heat = unframed(heat, picture.shape, preprocessing)
            total += resize(heat[None].cpu(), tuple(total.shape))[0] / len(scales)
    return merged


def _scaled_maps(
    network: LoadedModel, method: str, layers: list[TargetLayer], pixels: torch.Tensor, pictures: list[np.ndarray],
    targets: list[int], scale: float, batch_size: int = 32, **settings: Any,
) -> torch.Tensor:  # fmt: skip
    """Maps of pictures in so many times the network's size, in the unit of its own."""
    if scale != 1:
        preprocessing = network.card.preprocessing.at_scale(scale)
        pixels = stacked([preprocessing.apply(picture) for picture in pictures])
    few = max(1, int(batch_size / max(1, scale) ** 2))
    maps = heatmaps(network, method, layers, pixels, targets, batch_size=few, **settings)
    return maps * scale**2 if method in SHARING else maps


def tiled_maps(
    network: LoadedModel, method: str, layers: list[TargetLayer], pictures: list[np.ndarray], targets: list[int],
    batch_size: int = 32, **settings: Any,
) -> Iterator[torch.Tensor]:  # fmt: skip
    """Maps of pictures as they are, in tiles, as :func:`heat_maps` makes them.

    Tiles are squares of twice the network's size, each half over the next. A tile's rim, a quarter of the network's
    size wide, where the network sees the border that is none, counts only where there is no other tile; from there to
    the middle, one fades into the next. Memory holds a batch of tiles, and the map of one picture.

    Yields:
        (H, W) float32 on the CPU, of what the network sees of the picture. Sides shorter than the network's size are
        enlarged to it first, or framed where the network's pictures are.
    """
    if method in STRETCHED:
        raise UserError(f"{method} stretches every map to [0, 1], so that tiles do not fit together: no --scales {OWN}")
    size = network.card.image_size
    for picture, target in zip(pictures, targets, strict=True):
        seen = picture[network.card.preprocessing.seen(*picture.shape[:2])]
        height, width = (max(size, side) for side in seen.shape[:2])
        large = seen
        if network.card.max_scale:
            large = pad_to(seen, height, width)
        elif large.shape[:2] != (height, width):
            large = np.asarray(Image.fromarray(seen).resize((width, height), Image.Resampling.BILINEAR))
        high, wide = min(2 * size, height), min(2 * size, width)
        tops, lefts = starts(height, size, high), starts(width, size, wide)
        down, across = _window(high, size), _window(wide, size)
        total = torch.zeros(height, width)
        few = max(1, batch_size * size**2 // (high * wide))
        corners = [(top, left) for top in tops for left in lefts]
        for first in tqdm(range(0, len(corners), few), method, disable=None, leave=False, unit="batch"):
            some = corners[first : first + few]
            tiles = stacked([large[top : top + high, left : left + wide] for top, left in some])
            maps = heatmaps(network, method, layers, tiles, [target] * len(some), batch_size=few, **settings)
            for heat, (top, left) in zip(maps.cpu(), some, strict=True):
                total[top : top + high, left : left + wide] += heat * down[:, None] * across
        total /= _laid(down, tops, height)[:, None]
        total /= _laid(across, lefts, width)
        if method in SHARING:
            total *= high * wide / size**2
        if network.card.max_scale:
            top, left = (free // 2 for free in (height - seen.shape[0], width - seen.shape[1]))
            yield total[top : top + seen.shape[0], left : left + seen.shape[1]]
        else:
            yield resize(total[None], seen.shape[:2])[0]


def _window(length: int, size: int) -> torch.Tensor:
    """Weights along a tile: rising from a quarter of the network's size to three quarters, so that two sum to 1."""
    place = torch.arange(length) + 0.5
    return ((torch.minimum(place, length - place) / size - 0.25) * 2).clamp(1e-6, 1)


def _laid(window: torch.Tensor, begins: list[int], length: int) -> torch.Tensor:
    """Sum of the windows that begin at those places of a side: (length,)."""
    total = torch.zeros(length)
    for begin in begins:
        total[begin : begin + len(window)] += window
    return total


def fused(maps: Sequence[torch.Tensor], how: str | None) -> torch.Tensor:
    """Maps of one picture (H, W), each over its maximum: their mean, or with ``product`` their geometric mean."""
    shares = torch.stack([heat / heat.max() if heat.any() else heat for heat in maps])
    return shares.prod(dim=0) ** (1 / len(maps)) if how == "product" else shares.mean(dim=0)


def explainer(
    network: LoadedModel, method: str, layers: list[TargetLayer], refinement: str | None = None, **settings: Any
) -> Explain:
    """The method as a function of any network of this build, for :func:`crackcam.scoring.against_network`.

    Args:
        refinement: one of :data:`crackcam.methods.REFINEMENTS`, by the pictures as the network sees them.
        settings: of :func:`heat_maps`.
    """

    def explain(model: nn.Module, inputs: torch.Tensor, targets: list[int]) -> torch.Tensor:
        modules, pixels = dict(model.named_modules()), network.preprocessing.denormalize(inputs)
        there = [layer._replace(module=modules[layer.name]) for layer in layers]
        made = heatmaps(network.with_model(model), method, there, pixels, targets, **settings)
        heats = torch.stack([as_map(heat) for heat in made])
        if refinement is None:
            return heats
        pictures = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        refined = [refine(refinement, h.cpu().numpy(), p) for h, p in zip(heats, pictures, strict=True)]
        return torch.from_numpy(np.stack(refined)).to(heats)

    return explain


@contextmanager
def of_engine(method: str) -> Iterator[None]:
    """Turns what the engine says against a network into a UserError."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{method} cannot explain this: {error}") from error


def _method(network: LoadedModel, method: str, layers: list[TargetLayer]) -> Any:
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


def anatomy(network: LoadedModel, layer: TargetLayer, pixels: torch.Tensor, target: int) -> Anatomy:
    """Grad-CAM step by step.

    Args:
        layer: target layer.
        pixels: (1, 3, size, size) uint8.
        target: class index.
    """
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients

    recorder = ActivationsAndGradients(network.model, [layer.module], layer.reshape)
    logits = recorder(network.to_inputs(pixels))
    (gradients,) = recorder.differentiate(logits[0, target].float())
    activations, gradients = recorder.activations[0][0].cpu(), gradients[0].cpu()
    weights = gradients.mean(dim=(1, 2))
    signed = torch.einsum("c,chw->hw", weights, activations)
    return Anatomy(activations, gradients, weights, signed, resize(signed.relu()[None], tuple(pixels.shape[2:]))[0])


def as_map(heat: torch.Tensor) -> torch.Tensor:
    """A map (H, W) as it is; of a signed picture (3, H, W), its largest size over the colours."""
    return heat if heat.ndim == 2 else heat.abs().amax(dim=0)


def drawn(
    heat: torch.Tensor, picture: np.ndarray, preprocessing: Preprocessing, style: Style, stretch: bool = True
) -> np.ndarray:
    """What is shown of a map, over the picture, or of a signed picture, grey where it is 0.

    Args:
        heat: (size, size) or (3, size, size).
        picture: (H, W, 3) uint8.
        preprocessing: how the picture became the network's input.
        style: how maps are shown.
        stretch: by the map's own maximum; without, a map has the unit of the colours, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    from crackcam.render.overlays import draw_heatmap

    shown = laid_over(heat, picture.shape[:2], preprocessing, stretch)
    return draw_heatmap(picture, shown, style) if heat.ndim == 2 else shown


def laid_over(
    heat: torch.Tensor, size: tuple[int, int], preprocessing: Preprocessing, stretch: bool = True
) -> np.ndarray:
    """A map, for the eye, over a picture of that height and width.

    Args:
        stretch: over all of its range; without, as it is, in 0..1.

    Returns:
        (H, W) float32 in [0, 1]; of a signed picture (3, size, size), (H, W, 3) uint8, grey where it is 0.
    """
    from pytorch_grad_cam.utils.image import deprocess_image

    picture = np.empty((*size, 0))
    if heat.ndim == 2:
        return at_picture_size(normalize(heat[None])[0] if stretch else heat, picture, preprocessing)
    return deprocess_image(np.stack([at_picture_size(colour, picture, preprocessing) for colour in heat], axis=-1))


def small_map(
    heat: torch.Tensor, size: tuple[int, int], preprocessing: Preprocessing, stretch: bool = True
) -> np.ndarray:
    """:func:`laid_over`, as uint8, for a report."""
    shown = laid_over(heat, size, preprocessing, stretch)
    return shown if shown.ndim == 3 else np.rint(shown * 255).astype(np.uint8)


def at_picture_size(heat: torch.Tensor, picture: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A map (h, w) of what the network sees of a picture, laid over the picture.

    Returns:
        (H, W) float32; 0 where the picture was cropped away.
    """
    seen = np.zeros(picture.shape[:2], np.float32)
    window = preprocessing.seen(*picture.shape[:2])
    seen[window] = resize(heat[None], seen[window].shape)[0].cpu().numpy()
    return seen


def _unframed(
    maps: Iterable[torch.Tensor], pictures: list[np.ndarray], preprocessing: Preprocessing
) -> list[torch.Tensor]:
    return [unframed(heat, picture.shape, preprocessing) for heat, picture in zip(maps, pictures, strict=True)]


def unframed(heat: torch.Tensor, size: tuple[int, ...], preprocessing: Preprocessing) -> torch.Tensor:
    """Of a map (..., side, side) of the network's input, at whatever scale, what lies on a picture (H, W, ...)."""
    scaled = preprocessing.at_scale(heat.shape[-1] / preprocessing.size)
    return heat[..., *scaled.inside(*size[:2])]


def check_names(pictures: list[Path]) -> None:
    """Raises UserError where the maps of two pictures would have one name."""
    if len({path.stem for path in pictures}) < len(pictures):
        raise UserError("two of the pictures have the same name: their maps would overwrite each other")


def save_map(folder: Path, picture: Path, heat: np.ndarray, method: str = "") -> str:
    """Write a map (H, W) float32 as <stem>.npy, or <stem>_<method>.npy; returns the file's name."""
    path = folder / f"{picture.stem}{f'_{method}' if method else ''}.npy"
    write_atomically(path, lambda temporary: np.save(temporary, heat))
    return str(path)
