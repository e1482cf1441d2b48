"""Images and maps as numpy arrays: the helper functions that CAM tutorials call."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pytorch_grad_cam.utils import maps


def preprocess_image(
    img: np.ndarray, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> torch.Tensor:
    """An image as network input.

    Args:
        img: (H, W, C); float in [0, 1], or uint8, which is divided by 255.
        mean: subtracted from each channel.
        std: each channel is divided by it.

    Returns:
        (1, C, H, W) float32.
    """
    scaled = img.astype(np.float32) / (255 if img.dtype == np.uint8 else 1)
    normalized = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1)))[None]


def deprocess_image(img: np.ndarray | torch.Tensor) -> np.ndarray:
    """Gradients of any scale as an image: mean to mid-grey, one standard deviation to a tenth of the range.

    Args:
        img: array or tensor of any shape.

    Returns:
        uint8 of the same shape.
    """
    array = img.detach().cpu().numpy() if isinstance(img, torch.Tensor) else img
    centred = array - np.mean(array)
    return (255 * np.clip(0.5 + 0.1 * centred / (np.std(centred) + 1e-5), 0, 1)).astype(np.uint8)


def show_cam_on_image(
    img: np.ndarray,
    mask: np.ndarray,
    use_rgb: bool = False,
    colormap: int = cv2.COLORMAP_JET,
    image_weight: float = 0.5,
) -> np.ndarray:
    """The image with the coloured map over it, stretched so that its brightest value is 255.

    Args:
        img: (H, W, 3) float in [0, 1].
        mask: (H, W) map in [0, 1].
        use_rgb: True where ``img`` is RGB, False where it is BGR.
        colormap: one of OpenCV's ``COLORMAP_*``.
        image_weight: share of the image in the mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8, in the channel order of ``img``.

    Raises:
        ValueError: ``img`` exceeds 1, or ``image_weight`` lies outside [0, 1].
    """
    _check_mixture(img, image_weight)
    heat = cv2.applyColorMap((255 * mask).astype(np.uint8), colormap)
    if use_rgb:
        heat = heat[..., ::-1]
    mixed = (1 - image_weight) * (heat.astype(np.float32) / 255) + image_weight * img.astype(np.float32)
    brightest = np.max(mixed)
    return (255 * (mixed / brightest if brightest > 0 else mixed)).astype(np.uint8)


def scale_cam_image(cam: np.ndarray, target_size: tuple[int, ...] | None = None) -> np.ndarray:
    """Each map stretched to [0, 1], then resized.

    Args:
        cam: (N, *spatial) maps.
        target_size: spatial size in OpenCV's order, (width, height) or (width, height, depth).

    Returns:
        (N, *spatial) float32.
    """
    scaled = maps.normalize(torch.as_tensor(np.asarray(cam, dtype=np.float32)))
    return (scaled if target_size is None else maps.resize(scaled, target_size[::-1])).numpy()


def scale_accross_batch_and_channels(tensor: np.ndarray, target_size: tuple[int, ...]) -> np.ndarray:
    """:func:`scale_cam_image` of each channel of each image by itself.

    Args:
        tensor: (N, C, *spatial).
        target_size: spatial size in OpenCV's order, (width, height) or (width, height, depth).

    Returns:
        (N, C, *spatial) float32.
    """
    maps_of_channels = np.asarray(tensor).reshape(-1, *tensor.shape[2:])
    return scale_cam_image(maps_of_channels, target_size).reshape(*tensor.shape[:2], *target_size[::-1])


def create_labels_legend(
    concept_scores: np.ndarray, labels: Mapping[int, str] | Sequence[str], top_k: int = 2
) -> list[str]:
    """What the classes with the highest scores are called, for each concept.

    Args:
        concept_scores: (concepts, K) scores of the classes.
        labels: name of each class; of names with commas, the first three parts are used.
        top_k: classes to a concept.

    Returns:
        One string for each concept: lines such as "tabby,tiger cat:0.83", the highest score first.
    """
    best = np.argsort(-concept_scores, axis=1, kind="stable")[:, :top_k].tolist()
    return [
        "\n".join(f"{','.join(labels[k].split(',')[:3])}:{scores[k]:.2f}" for k in categories)
        for scores, categories in zip(concept_scores, best, strict=True)
    ]


def show_factorization_on_image(
    img: np.ndarray,
    explanations: np.ndarray,
    colors: Sequence[Sequence[float] | np.ndarray] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> np.ndarray:
    """The image with a coloured map for each concept over it: at each place the strongest, as bright as it is strong.

    Args:
        img: (H, W, 3) float in [0, 1], RGB.
        explanations: (n, H, W) maps in [0, 1].
        colors: RGB in [0, 1] for each concept, of which hue and saturation count; None: evenly spread hues.
        image_weight: share of the image in the mixture, in [0, 1].
        concept_labels: one text for each concept; adds a legend to the right, of the size of the image.

    Returns:
        (H, W, 3) uint8, or (H, 2 W, 3) with the legend.

    Raises:
        ValueError: ``img`` exceeds 1, ``image_weight`` lies outside [0, 1], there are fewer colours than maps, or
            not one label for each.
    """
    _check_mixture(img, image_weight)
    concepts = len(explanations)
    palette = _hues(concepts) if colors is None else np.asarray([color[:3] for color in colors], np.float32)
    if len(palette) < concepts or (concept_labels is not None and len(concept_labels) != concepts):
        raise ValueError(f"{concepts} maps need as many colours and labels")
    brightest = palette.max(axis=1, keepdims=True)
    palette = np.where(brightest > 0, palette / np.where(brightest > 0, brightest, 1), 1)
    heat = palette[np.argmax(explanations, axis=0)] * np.max(explanations, axis=0)[..., None]
    mixed = (255 * (image_weight * img + (1 - image_weight) * heat)).astype(np.uint8)
    if concept_labels is None:
        return mixed
    return np.hstack((mixed, _legend(concept_labels, palette, *img.shape[:2])))


def _check_mixture(img: np.ndarray, image_weight: float) -> None:
    if np.max(img) > 1:
        raise ValueError("img must be float in [0, 1]")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight must be in [0, 1], got {image_weight}")


def _hues(count: int) -> np.ndarray:
    from matplotlib import colormaps  # slow to import, and only of use here

    return colormaps["gist_rainbow"](np.arange(count) / count)[:, :3]


def _legend(labels: Sequence[str], palette: np.ndarray, height: int, width: int) -> np.ndarray:
    """A white page (height, width, 3) with a coloured bar and a text for each label, as large as all of them fit."""
    from matplotlib import get_data_path  # its font comes with it, and knows more letters than Pillow's

    font_file = str(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"))
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    margin, row = max(2, width // 32), height / len(labels)
    left = 3 * margin
    for size in range(max(7, height // 16), 5, -1):
        font = ImageFont.truetype(font_file, size)
        texts = [_wrapped(label, font, width - left - margin) for label in labels]
        boxes = [draw.multiline_textbbox((left, 0), text, font=font, spacing=size // 5) for text in texts]
        if all(box[2] <= width - margin and box[3] <= row - 2 for box in boxes):
            break
    for index, (text, color) in enumerate(zip(texts, palette, strict=False)):
        top, middle = index * row, (index + 0.5) * row
        bar = (margin, top + 2, 2 * margin, top + row - 3)
        draw.rectangle(bar, fill=tuple((255 * color).astype(int).tolist()))
        draw.multiline_text((left, middle), text, fill="black", font=font, anchor="lm", spacing=size // 5)
    return np.asarray(page)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text with its lines broken at spaces, so that each is at most that wide, unless it is a single word."""
    lines = []
    for line in text.splitlines():
        first, *others = line.split(" ")
        lines.append(first)
        for word in others:
            if font.getlength(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
    return "\n".join(lines)
