"""How good a heat map is: against masks of what should be found, and against the network itself.

Against masks (:func:`against_masks`), with scikit-learn's curves:

    average precision   area under precision over recall of the map's pixels; a random map scores the share of the mask
    AUROC               probability that a pixel of the mask is hotter than one beside it; a random map scores 0.5
    peak                pointing game: does the hottest pixel lie on the mask, or within a tolerance of it?
                        Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016 (arXiv:1608.00507)
    energy              share of the heat that lies on the mask. Wang et al., Score-CAM, CVPRW 2020 (arXiv:1910.01279)
    F1, IoU             of the map cut at a threshold that was chosen without these masks (crackcam/finding.py)

Against the network (:func:`against_network`), with no mask:

    deletion            area under the class's probability while the hottest pixels are taken away; lower is better
    insertion           the same while they are put into a blurred picture; higher is better
                        both: Petsiuk et al., RISE, BMVC 2018 (arXiv:1806.07421)
    ROAD                probability lost without the hottest pixels less that lost without the coldest, halved; higher
                        is better. Rong et al., ICML 2022 (arXiv:2202.00449)
    drop, increase      of the probability, seen through the map. Chattopadhay et al., WACV 2018 (arXiv:1710.11063)
    randomised          rank correlation with the map of the same network with random weights: a map that survives that
                        explains nothing. Adebayo et al., NeurIPS 2018 (arXiv:1810.03292); near 0 is better
    instability         how much the map changes with small noise on the picture, relative to itself; lower is better.
                        Yeh et al., NeurIPS 2019 (arXiv:1901.09392), with the mean in the place of the maximum

:data:`BASELINES` are maps that know no network. A method that does not beat them has not found anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from crackcam.data import images
from crackcam.data.images import DecodedImage
from crackcam.errors import UserError
from crackcam.text import counted

if TYPE_CHECKING:
    pass
from crackcam.evaluation.baselines import BASELINES

TOLERANCE = 15 / 448  # of the pointing game, as a share of the longer side; the paper's 15 pixels at our masks' size
PAIRS = 2_000_000  # pixels above which the pooled curves look at every k-th one


# -- against masks ---------------------------------------------------------------------------------------------------


class MaskScores(NamedTuple):
    """Maps against masks. All but the pooled figures are means over pictures whose mask is neither empty nor full.

    Attributes:
        pictures: how many those are.
        ap, auroc: pooled over all pixels of all pictures, also of those with empty masks.
        ap_each, auroc_each: means over the pictures.
        ap_error: standard error of ``ap_each``.
        peak, energy: see the module.
        best_f1, best_threshold: pooled, at the threshold that is best for these very pictures: an upper bound.
        f1, iou: pooled, above the thresholds that were passed; nan without.
        cover_empty: share of the pixels above them in pictures with empty masks; nan without such.
    """

    pictures: int
    ap: float
    auroc: float
    ap_each: float
    auroc_each: float
    ap_error: float
    peak: float
    energy: float
    best_f1: float
    best_threshold: float
    f1: float
    iou: float
    cover_empty: float


def score_masks(
    heats: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: float | Sequence[float] = math.nan
) -> MaskScores:
    """Score maps.

    Args:
        heats: (H, W) float32, >= 0, one for each picture, in one unit for all, for the pooled figures.
        masks: (H, W) bool, of the same sizes.
        threshold: chosen elsewhere, in the unit of the maps, for all or for each; nan: none was.

    Raises:
        ValueError: all masks are empty or full, or a map has another size than its mask.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    for heat, mask in zip(heats, masks, strict=True):
        if heat.shape != mask.shape:
            raise ValueError(f"a map of {heat.shape} against a mask of {mask.shape}")
    full = [(heat, mask) for heat, mask in zip(heats, masks, strict=True) if mask.any() and not mask.all()]
    if not full:
        raise ValueError("all masks are empty or full: nothing to find")
    each = [
        (average_precision_score(mask.ravel(), heat.ravel()), roc_auc_score(mask.ravel(), heat.ravel()))
        for heat, mask in full
    ]
    pixels = np.concatenate([heat.ravel() for heat in heats])
    truth = np.concatenate([mask.ravel() for mask in masks])
    step = max(1, round(len(pixels) / PAIRS))
    some, true = pixels[::step], truth[::step]
    precision, recall, thresholds = precision_recall_curve(true, some, drop_intermediate=True)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    limits = np.broadcast_to(np.asarray(threshold, np.float32), len(heats))
    parts = [heat > limit for heat, limit in zip(heats, limits, strict=True)]
    found, cut = np.concatenate([part.ravel() for part in parts]), not np.isnan(limits).any()
    hits, wrong, missed = (int((a & b).sum()) for a, b in ((found, truth), (found, ~truth), (~found, truth)))
    empty = [part for part, mask in zip(parts, masks, strict=True) if not mask.any()]
    return MaskScores(
        pictures=len(full),
        ap=float(average_precision_score(true, some)),
        auroc=float(roc_auc_score(true, some)),
        ap_each=float(np.mean([ap for ap, _ in each])),
        auroc_each=float(np.mean([auroc for _, auroc in each])),
        ap_error=float(np.std([ap for ap, _ in each], ddof=1) / len(each) ** 0.5) if len(each) > 1 else math.nan,
        peak=float(np.mean([peak_hits(heat, mask) for heat, mask in full])),
        energy=float(np.mean([heat[mask].sum() / heat.sum() if heat.sum() > 0 else 0.0 for heat, mask in full])),
        best_f1=float(f1[best]),
        best_threshold=float(thresholds[best]),
        f1=2 * hits / max(2 * hits + wrong + missed, 1) if cut else math.nan,
        iou=hits / max(hits + wrong + missed, 1) if cut else math.nan,
        cover_empty=float(np.mean([part.mean() for part in empty])) if empty and cut else math.nan,
    )


def peak_hits(heat: np.ndarray, mask: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether the hottest pixel lies on the mask or near it; of several equally hot ones, their middle."""
    if not heat.max() > heat.min():
        return False
    rows, columns = np.nonzero(heat == heat.max())
    y, x = round(rows.mean()), round(columns.mean())
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(distance[y, x] <= tolerance * max(mask.shape))


def read_masks(folder: Path, pictures: list[DecodedImage]) -> list[np.ndarray]:
    """The mask of each picture, (H, W) bool: the file of its name, whatever its ending, below the folder.

    Raises:
        UserError: a picture has none, several, or one of another size; or all are empty or full.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in images.list_files(folder):
        files[path.stem].append(path)
    missing = [item.path.name for item in pictures if item.path.stem not in files]
    if missing:
        raise UserError(f"no mask in {folder} for {counted(len(missing), 'picture')}, the first is {missing[0]}")
    masks = []
    for item in pictures:
        path, *others = files[item.path.stem]
        if others:
            raise UserError(f"{path} and {others[0]} are both named as masks of {item.path.name}: keep one in {folder}")
        try:
            mask = images.read_image(path).mean(axis=2) > 127
        except images.ImageError as error:
            raise UserError(f"cannot read the mask {path}: {error}") from None
        if mask.shape != item.pixels.shape[:2]:
            sizes = [f"{width} x {height}" for height, width in (mask.shape, item.pixels.shape[:2])]
            raise UserError(f"the mask {path} is {sizes[0]}, its picture {sizes[1]}")
        masks.append(mask)
    if not any(mask.any() and not mask.all() for mask in masks):
        said = f"the masks of these {counted(len(masks), 'picture')} are empty or full: nothing to find"
        raise UserError(f"{said}; they have to be white, 255, on what is to be found, and black beside it")
    return masks


def compare_masks(
    pictures: list[DecodedImage], masks: list[np.ndarray], heats: dict[str, list[np.ndarray]],
    thresholds: dict[str, list[float]],
) -> list[dict]:  # fmt: skip
    """Methods, by name, and all baselines against the same masks; best average precision first in each group.

    Args:
        thresholds: of methods, one for each picture; nan where none is known.

    Returns:
        Rows of :class:`MaskScores`; what is not known is None.
    """

    def rows(maps: dict[str, list[np.ndarray]], baseline: bool) -> list[dict]:
        scored = [
            {
                "method": name,
                "baseline": baseline,
                **score_masks(of_method, masks, thresholds.get(name, math.nan))._asdict(),
            }
            for name, of_method in maps.items()
        ]
        return sorted(map(_without_nan, scored), key=lambda row: -row["ap"])

    known = {name: [baseline(item.pixels) for item in pictures] for name, baseline in BASELINES.items()}
    return rows(heats, False) + rows(known, True)


def captions(masks: list[np.ndarray], heats: dict[str, list[np.ndarray]]) -> list[list[str]]:
    """Of each picture, the average precision of each method's map, for figures."""
    from sklearn.metrics import average_precision_score

    def says(mask: np.ndarray, heat: np.ndarray) -> str:
        return f"AP {average_precision_score(mask.ravel(), heat.ravel()):.2f}" if mask.any() else "nothing to find"

    return [[says(mask, heat[i]) for heat in heats.values()] for i, mask in enumerate(masks)]


def add_average_precision(rows: list[dict], masks: list[np.ndarray], heats: dict[str, list[np.ndarray]]) -> None:
    """Note average precision as ``ap`` beside each map in ``rows``; nothing where there is nothing to find."""
    from sklearn.metrics import average_precision_score

    for method, of_method in heats.items():
        for row, mask, heat in zip(rows, masks, of_method, strict=True):
            if mask.any():
                row["maps"][method]["ap"] = float(average_precision_score(mask.ravel(), heat.ravel()))


def _without_nan(row: dict) -> dict:
    """JSON has no nan."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def mask_table(rows: list[dict]) -> str:
    """The comparison with masks, readable; F1 and IoU only where a threshold is known."""
    cut = any(row["f1"] is not None for row in rows)
    more = f"{'F1':>8}{'IoU':>8}" if cut else ""
    head = f"{'':<20}{'AP':>7}{'AUROC':>8}{'peak':>8}{'energy':>8}{'best F1':>9}{more}{'AP a picture':>20}"

    def line(row: dict) -> str:
        each = f"{row['ap_each']:.3f} +- {_number(row['ap_error'])}"
        more = f"{_number(row['f1']):>8}{_number(row['iou']):>8}" if cut else ""
        return (
            f"{row['method']:<20}{row['ap']:>7.3f}{row['auroc']:>8.3f}{100 * row['peak']:>6.0f} %{row['energy']:>8.3f}"
            f"{row['best_f1']:>9.3f}{more}{each:>20}"
        )

    return _in_two_groups(head, rows, line)


def _in_two_groups(head: str, rows: list[dict], line: Callable[[dict], str]) -> str:
    methods, known = ([line(row) for row in rows if row["baseline"] is baseline] for baseline in (False, True))
    return "\n".join([head, *methods, "-- maps that know no network", *known])
