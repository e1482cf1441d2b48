"""How accurate are the measured widths of cracks? On drawn cracks of known width, and beside annotated masks.

    python benchmarks/crack_widths.py
    python benchmarks/crack_widths.py --dilate 8 15
    CRACKCAM_DATA=folder python benchmarks/crack_widths.py --masks
    CRACKCAM_DATA=folder python benchmarks/crack_widths.py --found --count 100

Each drawn crack is rasterised at eight times the resolution, on a textured surface, blurred in linear light and with
sensor noise; the region is its mask, dilated by 3 to 6 pixels. "below 2 px" counts as 1 px, an unmeasured crack as
wrong. With --flat, the same regions lie on the same surfaces without cracks, and nothing should be measured.

With --masks, the annotated masks of DeepCrack in CRACKCAM_DATA/crack_masks, dilated by 4 pixels, are the regions, and
their own width is printed beside the measured one. No parameter was chosen by them.

With --found, everything counts: cracks are drawn on crops of the photographed surfaces in CRACKCAM_DATA/textures and on
generated concrete, 448 px wide; the bundled network marks regions, and the cracks in them are measured. A crack is
found where the regions cover at least half of its line; its width is the mean over the places that were measured.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.morphology import skeletonize

sys.path.insert(0, str(Path(__file__).parents[1]))

from crackcam.data.images import read_image
from crackcam.data.synthetic.noise import Rng, fractal_noise
from crackcam.data.synthetic.paths import band_coverage, border_to_border, fractal_path, ragged_half_widths, random_walk
from crackcam.data.synthetic.surfaces import concrete
from crackcam.evaluation.skeletons import skeleton_length
from crackcam.evaluation.widths import measure_width
from crackcam.sizes import NARROWEST, CrackWidth

SIDE = 240  # pixels, of a drawn image
FINER = 2  # times the four of band_coverage
BINS = ((2, 3), (3, 5), (5, 8), (8, 14), (14, 22), (22, 31))  # pixels, true width


class How(NamedTuple):
    """How cracks are drawn.

    Attributes:
        side: of the image in pixels.
        dilate: least and largest dilation of the mask in pixels.
        flat: whether to leave the crack out.
        mix_srgb: whether blur mixes sRGB values, as resizing by common software does, instead of light, as lenses do.
    """

    side: int = SIDE
    dilate: tuple[int, int] = (3, 6)
    flat: bool = False
    mix_srgb: bool = False


class Lens(NamedTuple):
    """What becomes of a crack in an image: blur in pixels, contrast to the surface, noise in grey levels."""

    blur: float
    contrast: float
    noise: float


@dataclass(frozen=True)
class Drawn:
    """A drawn crack and what is known about it.

    Attributes:
        image: (H, H, 3) uint8.
        region: (H, H) bool, the dilated mask.
        width, p95, maximum: in pixels; the mean is the drawn area divided by the length.
        length: of the path inside the image, in pixels.
        blur, contrast, noise: as drawn.
        kind: "straight" or "winding".
    """

    image: np.ndarray
    region: np.ndarray
    width: float
    p95: float
    maximum: float
    length: float
    blur: float
    contrast: float
    noise: float
    kind: str


def draw(rng: Rng, how: How, surface: np.ndarray | None = None) -> Drawn:
    """One crack: any width from 2 to 30 px, any angle, straight or winding, of constant width or ragged.

    Args:
        rng: of this crack.
        how: see there.
        surface: (H, H, 3) uint8, of a photograph, which has texture, blur and noise of its own; None: a drawn one.
    """
    width = float(np.exp(rng.uniform(np.log(2), np.log(30))))
    kind = "straight" if rng.random() < 0.5 else "winding"
    length = 0.0
    while length < max(60, 3 * width):  # else it only cuts off a corner
        path = _path(rng, width, kind, how.side)
        inside = ((path >= 0) & (path < how.side)).all(axis=1)
        length = float(np.hypot(*np.diff(path, axis=0).T)[inside[1:] & inside[:-1]].sum())
    if rng.random() < 0.5:
        left = right = np.full(len(path), width / 2)
    else:
        left, right = (
            np.interp(np.linspace(0, 99, len(path)), range(100), ragged_half_widths(rng, 100, width, False))
            for _ in range(2)
        )
    coverage = band_coverage(how.side * FINER, path * FINER, left * FINER, right * FINER)
    coverage = cv2.resize(coverage, (how.side, how.side), interpolation=cv2.INTER_AREA)
    blur, contrast, noise = rng.uniform(0, 2), rng.uniform(0.15, 0.6), rng.uniform(2, 8)
    lens = Lens(blur, contrast, noise)
    image = _on_drawn_surface(rng, how, coverage, lens) if surface is None else _on_photograph(surface, coverage, lens)
    radius = int(rng.integers(how.dilate[0], how.dilate[1] + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    region = cv2.dilate((coverage > 0.5).astype(np.uint8), disc) > 0
    both = (left + right)[inside]
    mean = float(coverage.sum()) / length
    return Drawn(
        image, region, mean, float(np.percentile(both, 95)), float(both.max()), length, blur, contrast, noise, kind
    )


def _on_drawn_surface(rng: Rng, how: How, coverage: np.ndarray, lens: Lens) -> np.ndarray:
    """A textured surface under a crack that covers it so, (H, H), as a camera sees both."""
    texture = rng.uniform(0.005, 0.04) * fractal_noise(rng, how.side, rng.uniform(4, 40), 0.7)
    surface = rng.uniform(110, 200) * (1 + texture)
    to_light, to_values = (np.asarray, np.asarray) if how.mix_srgb else (linear_light, srgb_values)
    light, dark = to_light(surface), to_light(surface * (1 if how.flat else 1 - lens.contrast))
    light = (light + (dark - light) * coverage).astype(np.float32)
    if lens.blur > 0.15:
        light = cv2.GaussianBlur(light, (0, 0), lens.blur)
    light = to_values(light) + rng.normal(0, lens.noise, light.shape)
    return np.clip(np.rint(light[..., None] * rng.uniform(0.9, 1.05, 3)), 0, 255).astype(np.uint8)


def _on_photograph(surface: np.ndarray, coverage: np.ndarray, lens: Lens) -> np.ndarray:
    """A photograph, (H, H, 3), that a crack covers so: blurred, and the photograph's own texture below it as it is."""
    covered = cv2.GaussianBlur(coverage, (0, 0), lens.blur) if lens.blur > 0.15 else coverage
    light, dark = linear_light(surface), linear_light(surface * (1 - lens.contrast))
    return np.clip(np.rint(srgb_values(light + (dark - light) * covered[..., None])), 0, 255).astype(np.uint8)


def linear_light(values: np.ndarray) -> np.ndarray:
    """SRGB values of 0 to 255 as linear light of 0 to 1 (IEC 61966-2-1)."""
    v = np.clip(values, 0, 255) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def srgb_values(light: np.ndarray) -> np.ndarray:
    """The inverse of :func:`linear_light`."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.clip(light, 0, 1) ** (1 / 2.4) - 0.055)


def _path(rng: Rng, width: float, kind: str, side: int) -> np.ndarray:
    """A path (n, 2) across the image or ending in it, with points 1 px apart."""
    start, end = border_to_border(rng, side)
    if rng.random() < 0.5:  # ends inside
        start, end = start + rng.uniform(0.12, 0.3) * (end - start), end + rng.uniform(0.12, 0.3) * (start - end)
    if kind == "straight":
        path = np.stack([start, end])
    elif rng.random() < 0.5:
        path = fractal_path(rng, start, end, rng.uniform(0.03, 0.11))
    else:
        heading = float(np.arctan2(*(end - start)[::-1]))
        path = random_walk(rng, start, heading, 60, 3.0, rng.uniform(0.1, 0.4))
    lengths = np.concatenate([[0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    even = np.stack([np.interp(np.arange(0, lengths[-1]), lengths, axis) for axis in path.T], axis=1)
    # A crack does not wind within its own width.
    return even if kind == "straight" else gaussian_filter1d(even, 1 + width / 2, axis=0, mode="nearest")


def as_number(value: float | None, found: CrackWidth) -> float:
    """A measured width as a number to compare: "below 2 px" as 1 px, unmeasured as nan."""
    return value if value is not None else NARROWEST / 2 if found.measured else float("nan")


def compare_drawn(count: int, seed: int, how: How) -> None:
    """Print one table: errors by true width."""
    drawn, found, seconds = [], [], 0.0
    for number in range(count):
        crack = draw(np.random.default_rng([seed, number]), how)
        start = time.process_time()
        found.append(measure_width(crack.image, crack.region))
        seconds += time.process_time() - start
        drawn.append(crack)
    print_errors(drawn, found, 1000 * seconds / count)


def print_errors(drawn: Sequence[Drawn], found: Sequence[CrackWidth], milliseconds: float) -> None:
    """Print the errors of measured widths, by true width and by how the cracks were drawn."""
    true = np.array([(crack.width, crack.p95, crack.maximum, crack.length) for crack in drawn])
    measured = np.array([(*(as_number(v, f) for v in (f.mean, f.p95, f.maximum)), f.length) for f in found])
    marking = np.array([crack.region.sum() / skeleton_length(crack.region) for crack in drawn])
    kinds = np.array([crack.kind for crack in drawn])
    blurs = np.array([crack.blur for crack in drawn])
    contrasts = np.array([crack.contrast for crack in drawn])
    width = true[:, 0]
    groups = {"all": width >= 0}
    groups |= {f"{low} to {high} px": (width >= low) & (width < high) for low, high in ((0, 2), *BINS)}
    groups |= {kind: kinds == kind for kind in ("straight", "winding")}
    groups |= {"blur up to 1 px": blurs <= 1, "blur over 1 px": blurs > 1}
    groups |= {"contrast up to 0.3": contrasts <= 0.3, "contrast over 0.3": contrasts > 0.3}
    error = measured - true
    wide = np.maximum(2, 0.3 * width)
    head = ("n", "median", "bias", "tolerance", "within", "p95", "maximum", "length", "none", "marking")
    print(f"{'':20}" + "".join(f"{name:>10}" for name in head))
    for name, rows in groups.items():
        seen = rows & ~np.isnan(measured[:, 0])
        if not seen.any():
            continue
        values = (
            f"{rows.sum()}",
            f"{np.median(np.abs(error[seen, 0])):.2f} px",
            f"{np.median(error[seen, 0]):+.2f} px",
            f"{max(1, 0.15 * np.median(width[rows])):.2f} px",
            f"{100 * np.mean(np.abs(error[rows, 0]) <= wide[rows]):.1f} %",
            f"{np.median(np.abs(error[seen, 1])):.2f} px",
            f"{np.median(np.abs(error[seen, 2])):.2f} px",
            f"{100 * np.median(np.abs(error[seen, 3]) / true[seen, 3]):.1f} %",
            f"{(rows & ~seen).sum()}",
            f"{np.median(np.abs(marking - width)[rows]):.1f} px",
        )
        print(f"{name:20}" + "".join(f"{value:>10}" for value in values))
    print(
        f"\nmedian, p95, maximum, length: median absolute error; within: max(2 px, 30 %); none: not measured;\n"
        f"marking: median error of area / length of the region; {milliseconds:.0f} ms each"
    )


def compare_found(count: int, seed: int) -> None:
    """Print how many cracks on photographed and on generated surfaces are found, and the errors of their widths."""
    import crackcam

    model, how = crackcam.load(), How(side=448)
    photographs = sorted((Path(os.environ["CRACKCAM_DATA"]) / "textures").iterdir())
    drawn: list[Drawn] = []
    found: list[CrackWidth] = []
    groups: dict[str, np.ndarray] = {}  # numbers of cracks: drawn, found, measured
    start = time.process_time()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        surface = _photographed(rng, photographs, how.side) if number % 2 else _generated(rng, how.side)
        crack = draw(rng, how, surface)
        regions = model.explain(crack.image, target="Positive").regions()
        parts = [region for region in regions if _covers(crack.region, region.polygons[0])]
        marked = np.zeros(crack.region.shape, np.uint8)
        for region in parts:
            cv2.fillPoly(marked, [_corners(region.polygons[0])], 1)
        line = skeletonize(crack.region)
        is_found = bool(marked[line].mean() >= 0.5)
        counts = np.array([1, is_found, is_found and any(region.crack.measured for region in parts)])
        for group in ("photographed" if number % 2 else "generated", crack.kind):
            groups[group] = groups.get(group, 0) + counts
        if is_found:
            drawn.append(replace(crack, region=marked > 0))  # for the width of the marking
            found.append(_joined([region.crack for region in parts]))
    for group, (every, seen, measured) in groups.items():
        print(f"{group}: {every} cracks drawn, {seen} found, {measured} measured")
    print_errors(drawn, found, 1000 * (time.process_time() - start) / count)


def _photographed(rng: Rng, photographs: Sequence[Path], side: int) -> np.ndarray:
    """A crop of a photographed surface, at its own resolution."""
    image = read_image(photographs[rng.integers(len(photographs))])
    top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _generated(rng: Rng, side: int) -> np.ndarray:
    tone, colour = concrete(rng, side)
    return np.clip(np.rint(tone[..., None] * colour), 0, 255).astype(np.uint8)


def _corners(polygon: Sequence[float]) -> np.ndarray:
    return np.rint(np.array(polygon).reshape(-1, 2)).astype(np.int32)


def _covers(mask: np.ndarray, polygon: Sequence[float]) -> bool:
    """Whether at least a third of a region lies on a mask."""
    filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [_corners(polygon)], 1) > 0
    return bool(mask[filled].mean() > 1 / 3)


def _joined(cracks: Sequence[CrackWidth]) -> CrackWidth:
    """The sizes of a crack that several regions mark: means by the number of places, sums, and largest values."""
    measured = [crack for crack in cracks if crack.measured]
    if not measured:
        return replace(cracks[0], measured=0, mean=None, p95=None, maximum=None)
    places = [crack.measured for crack in measured]
    mean, p95 = (
        float(np.average([as_number(getattr(crack, name), crack) for crack in measured], weights=places))
        for name in ("mean", "p95")
    )
    maximum = max(as_number(crack.maximum, crack) for crack in measured)
    length = sum(crack.length for crack in measured)
    return replace(measured[0], mean=mean, p95=p95, maximum=maximum, length=length, measured=sum(places))


def count_on_flat(count: int, seed: int, how: How) -> None:
    """Print how many regions without a crack get a width."""
    drawn = [draw(np.random.default_rng([seed, number]), how) for number in range(count)]
    false = sum(measure_width(crack.image, crack.region).measured > 0 for crack in drawn)
    print(f"without a crack: {false} of {count} regions get a width ({100 * false / count:.1f} %)")


def compare_masks() -> None:
    """Print the widths of annotated masks, and those measured in their images."""
    folder = Path(os.environ["CRACKCAM_DATA"]) / "crack_masks"
    with (folder / "manifest.csv").open() as file:
        stems = [row["stem"] for row in csv.DictReader(file) if row["source"] == "DeepCrack"]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    head = ("regions", "measured", "area/length", "2 area/perim", "measured px", "ratio")
    print(f"{'image':26}" + "".join(f"{name:>14}" for name in head))
    ratios = []
    for stem in stems:
        image = np.array(read_image(next((folder / "images").glob(f"{stem}.*"))))
        mask = cv2.imread(str(next((folder / "masks").glob(f"{stem}.*"))), cv2.IMREAD_GRAYSCALE) > 127
        row = _mask_row(image, mask, cv2.dilate(mask.astype(np.uint8), disc))
        print(f"{stem:26}" + "".join(f"{value:14.2f}" if isinstance(value, float) else f"{value:14}" for value in row))
        ratios.append(row[-1])
    print(f"median ratio of measured to area/length: {np.nanmedian(ratios):.2f} (n = {len(ratios)})")


def _mask_row(image: np.ndarray, mask: np.ndarray, dilated: np.ndarray) -> tuple[float, ...]:
    """Numbers of regions, widths of the mask in the measured regions, the measured width, and its ratio; by length."""
    count, labels = cv2.connectedComponents(dilated, connectivity=8)
    area = length = perimeter = product = 0.0
    measured = places = 0
    for label in range(1, count):
        region = labels == label
        found = measure_width(image, region)
        if not found.measured:
            continue
        measured += 1
        inside = mask & region
        pieces, parts = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
        area += inside.sum()
        length += sum(skeleton_length(parts == piece) for piece in range(1, pieces))
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        perimeter += sum(cv2.arcLength(outline, closed=True) for outline in outlines)
        product += found.measured * as_number(found.mean, found)
        places += found.measured
    if not measured:
        return count - 1, 0, float("nan"), float("nan"), float("nan"), float("nan")
    mean = product / places
    return count - 1, measured, area / length, 2 * area / perimeter, mean, mean / (area / length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="number of drawn cracks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dilate", type=int, nargs=2, default=(3, 6), metavar=("LEAST", "MOST"))
    parser.add_argument("--flat", action="store_true", help="count widths where there is no crack")
    parser.add_argument("--mix-srgb", action="store_true", help="blur sRGB values, as resizing does, instead of light")
    parser.add_argument("--masks", action="store_true", help="compare with the masks in CRACKCAM_DATA")
    parser.add_argument("--found", action="store_true", help="in regions that the bundled network marks")
    args = parser.parse_args()
    how = How(SIDE, tuple(args.dilate), args.flat, args.mix_srgb)
    if args.found:
        compare_found(args.count, args.seed)
    elif args.masks:
        compare_masks()
    elif args.flat:
        count_on_flat(args.count, args.seed, how)
    else:
        compare_drawn(args.count, args.seed, how)


if __name__ == "__main__":
    main()
