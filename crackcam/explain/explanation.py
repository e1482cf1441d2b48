"""The heatmap of one image, with everything that is needed to draw and to measure it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from crackcam.errors import UserError
from crackcam.evaluation.regions import Measurement, measure
from crackcam.explain.heatmaps import as_map
from crackcam.explain.refinement import refine_lines
from crackcam.explain.thresholds import complete_thresholds
from crackcam.files import write_atomically
from crackcam.methods import EVIDENCE
from crackcam.preprocessing import Preprocessing
from crackcam.render.captions import subject
from crackcam.render.overlays import (
    SHOWN_SIDE,
    Style,
    choose_style,
    draw_heatmap,
    draw_regions,
    side_by_side,
    thumbnail,
)
from crackcam.sizes import Scale
from crackcam.types import Prediction, Region, Result
from pytorch_grad_cam.utils.image import deprocess_image
from pytorch_grad_cam.utils.maps import normalize, resize


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """Where in an image the evidence for a class is.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        prediction: the classes of the image.
        target: name of the class that the heatmap explains.
        method: a name in :data:`crackcam.methods.NAMED`.
        layers: names of the target layers.
        map: (h, w) float32, >= 0, in the method's own unit, of the part of the image that the model sees; of methods
            that make images, signed (3, h, w).
        preprocessing: how the model sees the image; None: all of it.
        threshold: detection threshold in the method's unit; nan where none is known, inf for a class without regions.
        refine: whether the heatmap follows thin lines, see :mod:`crackcam.explain.refinement`.

    Examples:
        >>> import numpy as np
        >>> import crackcam
        >>> model = crackcam.load()
        >>> explanation = model.explain(np.full((60, 80, 3), 128, np.uint8))
        >>> explanation.heatmap.shape
        (60, 80)
        >>> explanation.overlay().size
        (80, 60)
    """

    image: np.ndarray
    prediction: Prediction
    target: str
    method: str
    layers: Sequence[str]
    map: torch.Tensor
    preprocessing: Preprocessing | None = None
    threshold: float = math.nan
    refine: bool = False

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        image = self.path or "an image"
        return f"Explanation({self.method} of {image}, {width} x {height}, {subject(self.method, self.target)})"

    @property
    def path(self) -> Path | None:
        """The image file; None for an image that was passed as pixels."""
        return self.prediction.path

    @property
    def is_probability(self) -> bool:
        """Whether the heatmap is a probability in 0..1, to be shown as it is; others are relative to their maximum."""
        return self.method == EVIDENCE

    @property
    def heatmap(self) -> np.ndarray:
        """(H, W) float32, >= 0, at the image's own size, in the method's unit; 0 where the image was cropped away.

        Computed at each access.
        """
        found = self._at_size(as_map(self.map), self.image.shape[:2])
        return refine_lines(found) if self.refine else found

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """The heatmap as it is shown: (h, w) float32 in [0, 1] for an image of that size, relative to its maximum.

        A probability stays as it is. Of a method that makes images, (h, w, 3) uint8, grey where it is 0.
        """
        if self.map.ndim == 3:
            return deprocess_image(np.stack([self._at_size(channel, size) for channel in self.map], axis=-1))
        if self.refine:  # as fine as the image: it would flicker without averaging
            refined = cv2.resize(self.heatmap, size[::-1], interpolation=cv2.INTER_AREA)
            return refined if self.is_probability else normalize(torch.from_numpy(refined)[None])[0].numpy()
        return self._at_size(self.map if self.is_probability else normalize(self.map[None])[0], size)

    def _at_size(self, heatmap: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """A map (h, w), over all of the image at that size: (H, W) float32, 0 where the model sees nothing."""
        whole = np.zeros(size, np.float32)
        window = self.preprocessing.seen(*size) if self.preprocessing else (slice(None), slice(None))
        whole[window] = resize(heatmap[None], whole[window].shape)[0].cpu().numpy()
        return whole

    def peak(self, heatmap: np.ndarray | None = None) -> float:
        """Maximum of the heatmap, in the method's unit; of the refined one where it is refined.

        Args:
            heatmap: :attr:`heatmap`, where it has been computed already.
        """
        if not self.refine:
            return float(self.map.max())
        return float((self.heatmap if heatmap is None else heatmap).max())

    @property
    def finite_threshold(self) -> float | None:
        """The threshold as JSON has it; None where there is none."""
        return self.threshold if math.isfinite(self.threshold) else None

    def regions(
        self, threshold: float | None = None, scale: Scale | None = None, width_limits: Sequence[float] = ()
    ) -> list[Region]:
        """The parts of the image where the heatmap exceeds a threshold, largest first, and the cracks in them.

        Args:
            threshold: in the unit of the heatmap; default: the checkpoint's, else Otsu's of this heatmap.
            scale: millimetres of a pixel, where they are known.
            width_limits: of the classes of crack widths, in millimetres, ascending; they need a scale.
        """
        return self.measure(threshold, None, scale, width_limits).regions

    def measure(
        self,
        threshold: float | None = None,
        heatmap: np.ndarray | None = None,
        scale: Scale | None = None,
        width_limits: Sequence[float] = (),
    ) -> Measurement:
        """As :meth:`regions`, with the mask, its fraction of the image, its length and its width.

        Args:
            threshold: as there.
            heatmap: :attr:`heatmap`, where it has been computed already.
            scale: as there.
            width_limits: as there.
        """
        heatmap = self.heatmap if heatmap is None else heatmap
        limit = self._detection_threshold(threshold, heatmap)
        return measure(heatmap, limit, self.image, scale, width_limits)

    def _detection_threshold(self, threshold: float | None, heatmap: np.ndarray) -> float:
        limit = self.threshold if threshold is None else threshold
        (limit,) = complete_thresholds([limit], self.method, [heatmap])
        return limit

    def overlay(self, style: str = "overlay", colormap: str | None = None, side: int | None = None) -> Image.Image:
        """The heatmap over the image.

        Args:
            style: "overlay", "edges", "sidebyside", "contours", or "mask": the regions with their boxes.
            colormap: a name of matplotlib; default: inferno, with "edges" coolwarm.
            side: the longer side of the result in pixels, at most: images are not enlarged, but with "mask";
                default: the image's own.

        Raises:
            UserError: there is no such style or colormap.
        """
        return Image.fromarray(self.draw(choose_style(style, colormap), side or max(self.image.shape[:2])))

    def draw(
        self, style: Style, side: int = SHOWN_SIDE, measured: Measurement | None = None, beside: bool = True
    ) -> np.ndarray:
        """As :meth:`overlay`: (h, w, 3) uint8, at most ``side`` long.

        Args:
            style: how.
            side: in pixels.
            measured: what :meth:`measure` returned, where it is known; for style "mask".
            beside: whether the image stands beside the heatmap in styles that show both.
        """
        if style.name == "mask":
            if measured is None:
                heatmap = self.heatmap
                measured = measure(heatmap, self._detection_threshold(None, heatmap))
            return draw_regions(self.image, measured, style.colormap, side)
        shown = thumbnail(self.image, side)
        found = self.resized(shown.shape[:2])
        drawn = draw_heatmap(shown, found, style) if self.map.ndim == 2 else found
        return side_by_side(shown, drawn) if beside and style.side_by_side else drawn

    def save(self, path: str | Path) -> Path:
        """Write the heatmap as it is (.npy, float32), or over the image (.png, .jpg); returns the path.

        Raises:
            UserError: the name ends in something else.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".npy":
            write_atomically(path, lambda temporary: np.save(temporary, self.heatmap))
        elif suffix in (".png", ".jpg", ".jpeg"):
            write_atomically(path, self.overlay().save)
        else:
            raise UserError(f"{path} must end in .npy, .png or .jpg")
        return path

    def to_dict(self) -> dict:
        """Prediction, target, method, layers, maximum of the heatmap, threshold and regions, as JSON has them."""
        heatmap = self.heatmap
        return {
            **self.prediction.to_dict(),
            "target": self.target,
            "method": self.method,
            "layers": list(self.layers),
            "max": self.peak(heatmap),
            "threshold": self.finite_threshold,
            "regions": [region.to_dict() for region in self.measure(heatmap=heatmap).regions],
        }
