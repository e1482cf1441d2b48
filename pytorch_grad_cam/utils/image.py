"""Images and heatmaps as numpy arrays: preprocessing and overlays."""

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
    """Convert an image to network input.

    Args:
        img: (H, W, C); float in [0, 1], or uint8, which is divided by 255.
        mean: subtracted from each channel.
        std: each channel is divided by it.

    Returns:
        (1, C, H, W) float32.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import preprocess_image
        >>> img = np.zeros((24, 32, 3), np.uint8)
        >>> preprocess_image(img, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).shape
        torch.Size([1, 3, 24, 32])
    """
    scaled = img.astype(np.float32) / (255 if img.dtype == np.uint8 else 1)
    normalized = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1)))[None]


def deprocess_image(img: np.ndarray | torch.Tensor) -> np.ndarray:
    """Convert gradients of any scale to an image: mean to mid-grey, one standard deviation to a tenth of the range.

    Args:
        img: array or tensor of any shape.

    Returns:
        uint8 of the same shape.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import deprocess_image
        >>> deprocess_image(np.array([-2.0, 0.0, 2.0])).tolist()
        [96, 127, 158]
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
    """Overlay a heatmap on an image; the result is scaled so that its largest value is 255.

    Args:
        img: (H, W, 3) float in [0, 1].
        mask: (H, W) heatmap in [0, 1].
        use_rgb: True for an RGB image, False for BGR.
        colormap: one of OpenCV's ``COLORMAP_*``.
        image_weight: weight of the image in the blend, in [0, 1].

    Returns:
        (H, W, 3) uint8, in the channel order of ``img``.

    Raises:
        ValueError: ``img`` exceeds 1, or ``image_weight`` is outside [0, 1].

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import show_cam_on_image
        >>> heatmap = np.zeros((2, 2), np.float32)
        >>> heatmap[0, 0] = 1
        >>> overlay = show_cam_on_image(np.full((2, 2, 3), 0.5), heatmap, use_rgb=True)
        >>> int(overlay[0, 0].argmax()), int(overlay[1, 1].argmax())  # high values are red, low ones blue
        (0, 2)
    """
    _check_blend(img, image_weight)
    coloured = cv2.applyColorMap((255 * mask).astype(np.uint8), colormap)
    if use_rgb:
        coloured = coloured[..., ::-1]
    blend = (1 - image_weight) * (coloured.astype(np.float32) / 255) + image_weight * img.astype(np.float32)
    brightest = np.max(blend)
    return (255 * (blend / brightest if brightest > 0 else blend)).astype(np.uint8)


def scale_cam_image(cam: np.ndarray, target_size: tuple[int, ...] | None = None) -> np.ndarray:
    """Normalise each map to [0, 1] by its minimum and maximum, then resize it.

    Args:
        cam: (N, *spatial) maps.
        target_size: spatial size in OpenCV's order, (width, height) or (width, height, depth).

    Returns:
        (N, *spatial) float32.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import scale_cam_image
        >>> scale_cam_image(np.float32([[[3, 5], [4, 3]]]))[0].tolist()
        [[0.0, 1.0], [0.5, 0.0]]
    """
    scaled = maps.normalize(torch.as_tensor(np.asarray(cam, dtype=np.float32)))
    return (scaled if target_size is None else maps.resize(scaled, target_size[::-1])).numpy()


def scale_accross_batch_and_channels(tensor: np.ndarray, target_size: tuple[int, ...]) -> np.ndarray:
    """Apply :func:`scale_cam_image` to each channel of each image separately.

    Args:
        tensor: (N, C, *spatial).
        target_size: spatial size in OpenCV's order, (width, height) or (width, height, depth).

    Returns:
        (N, C, *spatial) float32.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import scale_accross_batch_and_channels
        >>> scale_accross_batch_and_channels(np.random.default_rng(0).random((2, 3, 7, 7)), (32, 24)).shape
        (2, 3, 24, 32)
    """
    maps_of_channels = np.asarray(tensor).reshape(-1, *tensor.shape[2:])
    return scale_cam_image(maps_of_channels, target_size).reshape(*tensor.shape[:2], *target_size[::-1])


def create_labels_legend(
    concept_scores: np.ndarray, labels: Mapping[int, str] | Sequence[str], top_k: int = 2
) -> list[str]:
    """Describe each concept by the classes with the highest scores.

    Args:
        concept_scores: (concepts, K) scores of the classes.
        labels: name of each class; of names with commas, the first three parts are used.
        top_k: number of classes per concept.

    Returns:
        One string per concept: lines such as "tabby,tiger cat:0.83", the highest score first.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import create_labels_legend
        >>> create_labels_legend(np.array([[0.1, 0.9], [0.7, 0.3]]), ["sound", "crack"], top_k=1)
        ['crack:0.90', 'sound:0.70']
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
    """Overlay one map per concept, each in its own colour: a pixel shows the strongest concept, scaled by its value.

    Args:
        img: (H, W, 3) float in [0, 1], RGB.
        explanations: (n, H, W) maps in [0, 1].
        colors: RGB in [0, 1] for each concept, of which only hue and saturation are used; None: evenly spaced hues.
        image_weight: weight of the image in the blend, in [0, 1].
        concept_labels: one text per concept; adds a legend of the image's size on the right.

    Returns:
        (H, W, 3) uint8, or (H, 2 W, 3) with the legend.

    Raises:
        ValueError: ``img`` exceeds 1, ``image_weight`` is outside [0, 1], there are fewer colours than maps, or the
            number of labels differs from the number of maps.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.utils.image import show_factorization_on_image
        >>> maps = np.random.default_rng(0).random((2, 24, 32))
        >>> show_factorization_on_image(np.zeros((24, 32, 3)), maps, concept_labels=["first", "second"]).shape
        (24, 64, 3)
    """
    _check_blend(img, image_weight)
    concepts = len(explanations)
    palette = _hues(concepts) if colors is None else np.asarray([color[:3] for color in colors], np.float32)
    if len(palette) < concepts or (concept_labels is not None and len(concept_labels) != concepts):
        raise ValueError(f"{concepts} maps need the same number of colours and labels")
    brightest = palette.max(axis=1, keepdims=True)
    palette = np.where(brightest > 0, palette / np.where(brightest > 0, brightest, 1), 1)
    coloured = palette[np.argmax(explanations, axis=0)] * np.max(explanations, axis=0)[..., None]
    blend = (255 * (image_weight * img + (1 - image_weight) * coloured)).astype(np.uint8)
    if concept_labels is None:
        return blend
    return np.hstack((blend, _legend(concept_labels, palette, *img.shape[:2])))


def _check_blend(img: np.ndarray, image_weight: float) -> None:
    if np.max(img) > 1:
        raise ValueError("img must be float in [0, 1]")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight must be in [0, 1], got {image_weight}")


def _hues(count: int) -> np.ndarray:
    from matplotlib import colormaps  # slow to import, and needed only here

    return colormaps["gist_rainbow"](np.arange(count) / count)[:, :3]


def _legend(labels: Sequence[str], palette: np.ndarray, height: int, width: int) -> np.ndarray:
    """Render a white page (height, width, 3) with a coloured bar and text per label, in the largest font that fits."""
    from matplotlib import get_data_path  # its bundled font supports more characters than Pillow's

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
    """Break lines at spaces so that each is at most ``width`` pixels wide, unless it is a single word."""
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
