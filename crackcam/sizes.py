"""Sizes of cracks: widths in pixels, the scale that makes millimetres of them, and classes of widths."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

from crackcam.errors import UserError
from crackcam.text import percent

NARROWEST = 2.0  # pixels: narrower cracks are not measurable
TYPICAL_ERROR = 0.4  # pixels, in the median of drawn cracks: docs/how-to/measure-regions.md has the measurement
SCALES_MM = (1e-4, 1000)  # of a pixel: what lies outside is a mistake of the unit
DISTANCES_M, SENSORS_MM, FOCAL_LENGTHS_MM = (0.001, 10_000), (0.1, 1000), (0.1, 10_000)


@dataclass(frozen=True)
class CrackWidth:
    """The sizes of the crack in one region.

    Attributes:
        mean: over the measured places, in pixels; None where it is below 2 px or no place was measured.
        p95: 95th percentile, likewise.
        maximum: likewise.
        place: (x, y) of the maximum, in pixels of the image; None where no place was measured.
        orientation: of the centre line, in degrees: 0 along x, counter-clockwise as seen, in [0, 180).
        length: along the centre line, in pixels; that of the region's skeleton where no place was measured.
        measured: number of places that were measured, 1 px apart.
    """

    mean: float | None
    p95: float | None
    maximum: float | None
    place: tuple[int, int] | None
    orientation: float
    length: float
    measured: int

    @property
    def measurable(self) -> bool:
        """Whether there is a mean width."""
        return self.mean is not None

    def description(self, scale: Scale | None = None) -> str:
        """'4.2 px wide, at most 6.0 px at (31, 40)', in mm with a scale; 'below 2 px'; 'width not measurable'."""
        if not self.measured:
            return "width not measurable"
        narrow = f"below {NARROWEST:g} px" + (f" ({scale.millimetres(NARROWEST):.2g} mm)" if scale else "")
        mean, maximum = (None if value is None else length_text(value, scale) for value in (self.mean, self.maximum))
        return (f"{mean} wide" if mean else narrow) + (f", at most {maximum} at {self.place}" if maximum else "")

    def width_class(self, scale: Scale | None, limits: Sequence[float]) -> str | None:
        """The class of the 95th percentile, which single places with chips do not decide as they do the maximum.

        In words, as :func:`class_names` has them.

        None where it is not known: without limits or scale, where no width was measured, and where it is below 2 px but
        2 px are more than the first limit.
        """
        if not limits or scale is None or not self.measured:
            return None
        if self.p95 is not None:
            return width_class(scale.millimetres(self.p95), limits)
        lowest = class_names(limits)[0]
        return lowest if scale.millimetres(NARROWEST) <= limits[0] else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; widths of None where ``measured`` is above 0 are below 2 px."""
        rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return {**rounded, "place": self.place and list(self.place)}

    def millimetres(self, scale: Scale) -> dict[str, float | None]:
        """Length and widths in millimetres, as JSON has them."""
        values = {"length": self.length, "mean": self.mean, "p95": self.p95, "maximum": self.maximum}
        return {name: None if v is None else round(scale.millimetres(v), 3) for name, v in values.items()}


def length_text(pixels: float, scale: Scale | None = None) -> str:
    """'4.2 px', '412 px'; with a scale as :func:`metric_text`."""
    if scale is None:
        return f"{pixels:,.0f} px" if pixels >= 100 else f"{pixels:.1f} px"
    return metric_text(scale.millimetres(pixels))


def metric_text(mm: float) -> str:
    """Millimetres with the digits that they deserve, three at most: '0.84 mm', '12.3 mm', '1.24 m', '2.46 km'.

    Examples:
        >>> from crackcam.sizes import metric_text
        >>> metric_text(0.842), metric_text(12.34), metric_text(1243)
        ('0.84 mm', '12.3 mm', '1.24 m')
    """
    value, unit = (mm, "mm") if mm < 999.5 else (mm / 1000, "m") if mm < 999_500 else (mm / 1_000_000, "km")
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f} {unit}"


@dataclass(frozen=True)
class Scale:
    """Millimetres on the surface for one pixel of the image.

    Raises:
        UserError: the value is not between 0.0001 and 1000.

    Examples:
        >>> import crackcam
        >>> scale = crackcam.Scale.from_distance(2, focal_length_mm=50, sensor_width_mm=36, image_width_px=6000)
        >>> scale.mm_per_pixel, round(scale.millimetres(4), 2)
        (0.24, 0.96)
    """

    mm_per_pixel: float

    def __post_init__(self) -> None:
        _check("mm_per_pixel", self.mm_per_pixel, *SCALES_MM)

    @classmethod
    def from_distance(
        cls, distance_m: float, focal_length_mm: float, sensor_width_mm: float, image_width_px: int
    ) -> Scale:
        """The ground sampling distance of a camera that looks straight at the surface.

        Args:
            distance_m: from the camera to the surface, in metres.
            focal_length_mm: the real one; not the equivalent for 35 mm film, unless ``sensor_width_mm`` is 36.
            sensor_width_mm: side of the sensor along the image's width.
            image_width_px: width of the image that the sensor's width became, not of a crop of it.

        Raises:
            UserError: a value is not a number, not above 0, or no camera has it.
        """
        _check("distance_m", distance_m, *DISTANCES_M)
        _check("focal_length_mm", focal_length_mm, *FOCAL_LENGTHS_MM)
        _check("sensor_width_mm", sensor_width_mm, *SENSORS_MM)
        _check("image_width_px", image_width_px, 16, 1_000_000)
        return cls(1000 * distance_m * sensor_width_mm / (focal_length_mm * image_width_px))

    def millimetres(self, pixels: float) -> float:
        """A length in pixels, in millimetres."""
        return pixels * self.mm_per_pixel


def _check(name: str, value: float, lowest: float, highest: float) -> None:
    """Raise a UserError unless a value is a number between two others."""
    if not _is_number(value) or value <= 0:
        raise UserError(f"{name}: {value!r} is not a number above 0")
    if not lowest <= value <= highest:
        raise UserError(f"{name}: {value:g} is not between {lowest:g} and {highest:g}: check its unit")


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; widths may be None, and true is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def error_text(mm_per_pixel: float | None = None) -> str:
    """How accurate widths are, in a sentence for people who get them; with a scale in millimetres too.

    Examples:
        >>> from crackcam.sizes import error_text
        >>> error_text(0.275).partition(", half ")[2]
        'of the mean widths were off by at most 0.4 px (here 0.11 mm), 99 % by at most 2 px or 30 %'
    """
    here = "" if mm_per_pixel is None else f" (here {TYPICAL_ERROR * mm_per_pixel:.2g} mm)"
    half = f"half of the mean widths were off by at most {TYPICAL_ERROR:g} px{here}"
    return f"of 500 drawn cracks 2 to 30 px wide, {half}, 99 % by at most 2 px or 30 %"


def width_class(width_mm: float, limits: Sequence[float]) -> str:
    """The class of a crack width, one of :func:`class_names`; a width that is a limit belongs to the class above it.

    Args:
        width_mm: in millimetres, >= 0.
        limits: in millimetres, > 0, ascending.

    Raises:
        UserError: the width is negative or no number; there are no limits, or they are not ascending.

    Examples:
        >>> from crackcam.sizes import width_class
        >>> [width_class(width, (0.1, 0.2, 0.4)) for width in (0.05, 0.2, 1.0)]
        ['below 0.1 mm', '0.2 to 0.4 mm', 'from 0.4 mm']
    """
    if not _is_number(width_mm) or width_mm < 0:
        raise UserError(f"width_mm: {width_mm} is not a number of 0 or more")
    return class_names(limits)[bisect(limits, width_mm)]


def check_limits(limits: Sequence[float]) -> None:
    """Raise a UserError unless limits of width classes are ascending numbers above 0; there is at least one."""
    ascending = all(map(_is_number, limits)) and all(low < high for low, high in pairwise([0, *limits]))
    if not limits or not ascending:
        raise UserError(f"width_limits: {tuple(limits)} are not ascending numbers above 0, as in (0.1, 0.2, 0.4)")


def too_fine(limits: Sequence[float], mm_per_pixel: float, distance_m: float | None = None) -> str:
    """Which limits of width classes are below the narrowest width that can be measured; empty where none is.

    Args:
        limits: in millimetres.
        mm_per_pixel: scale of the photograph.
        distance_m: from which it was taken, in metres; None: not known.

    Examples:
        >>> from crackcam.sizes import too_fine
        >>> too_fine((0.3, 1), 0.275, 2)
        'the limit of 0.3 mm is 1.09 px: fly closer, to 54.5 % of the distance (1.09 m)'
    """
    below = [limit for limit in limits if limit < NARROWEST * mm_per_pixel]
    if not below:
        return ""
    named, pixels = (
        " and ".join(f"{value:.3g}" for value in (limit / unit for limit in below)) for unit in (1, mm_per_pixel)
    )
    closer = below[0] / (NARROWEST * mm_per_pixel)
    metres = "" if distance_m is None else f" ({_rounded_down(closer * distance_m):g} m)"
    verb = "limits of {} mm are {} px" if len(below) > 1 else "limit of {} mm is {} px"
    return f"the {verb.format(named, pixels)}: fly closer, to {percent(closer)} of the distance{metres}"


def _rounded_down(value: float) -> float:
    """To three digits: from no farther away a width can be measured."""
    digits = 2 - math.floor(math.log10(value))
    return math.floor(value * 10**digits + 1e-6) / 10**digits


def class_names(limits: Sequence[float]) -> list[str]:
    """The width classes in words.

    Examples:
        >>> from crackcam.sizes import class_names
        >>> class_names((0.2, 0.3))
        ['below 0.2 mm', '0.2 to 0.3 mm', 'from 0.3 mm']
    """
    check_limits(limits)
    between = [f"{low:g} to {high:g} mm" for low, high in pairwise(limits)]
    return [f"below {limits[0]:g} mm", *between, f"from {limits[-1]:g} mm"]
