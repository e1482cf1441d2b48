"""The kinds of values that settings take, and their limits."""

from __future__ import annotations

from typing import Any

from crackcam.errors import UserError
from crackcam.methods import OWN, parse_methods
from crackcam.settings import Kind, number
from crackcam.sizes import DISTANCES_M, SCALES_MM, SENSORS_MM, check_limits
from crackcam.text import split_list

LARGEST_SIZE = 2048  # pixels; at this input size a first layer of 64 channels takes a gigabyte for one image

POSITIVE_INT = number(int, 1, 10**9, "a whole number above 0")
WHOLE_NUMBER = number(int, 0, 10**5, "a whole number from 0 to 100,000")
SEED = number(int, 0, 2**32 - 1, "a whole number from 0 to 4,294,967,295")
WORKERS = number(int, 0, 256, "a whole number from 0 to 256")
IMAGE_SIZE = number(int, 8, LARGEST_SIZE, f"a whole number from 8 to {LARGEST_SIZE}")
POSITIVE_FLOAT = number(float, 1e-12, 1e12, "a number above 0")
NOT_NEGATIVE = number(float, 0, 1e12, "a number from 0 up")
FRACTION = number(float, 0, 1, "a number from 0 to 1")
HELD_OUT_FRACTION = number(float, 0.01, 0.9, "a fraction from 0.01 to 0.9")
SCALE = number(float, 0.25, 8, "own, or a number from 0.25 to 8")
SCALE_MM = number(float, *SCALES_MM, "a number of millimetres from {:g} to {:g}".format(*SCALES_MM))
DISTANCE = number(float, *DISTANCES_M, "a number of metres from {:g} to {:g}".format(*DISTANCES_M))
SENSOR = number(float, *SENSORS_MM, "a number of millimetres from {:g} to {:g}".format(*SENSORS_MM))


def _scales(value: Any) -> tuple[float | str, ...]:
    found = tuple(OWN if part == OWN else SCALE.parse(part) for part in split_list(value))
    if not found:
        raise ValueError("names nothing")
    return found


def _limits(value: Any) -> tuple[float, ...]:
    found = tuple(POSITIVE_FLOAT.parse(part) for part in split_list(value))
    try:
        check_limits(found)
    except UserError:
        raise ValueError("are not ascending numbers above 0, as in 0.2,0.3") from None
    return found


SCALES, METHODS, LIMITS = Kind(_scales), Kind(parse_methods), Kind(_limits)
