"""The scripts still give the numbers that make_values.py stored; what changes them on purpose stores them anew."""

import json

import make_values
import pytest
from make_values import CASES
from processes import run_python

SAME, SIMILAR = 1e-6, 2e-3  # largest differences: on the machine of the stored values, on others
SHOWN = 12
STORED = json.loads(make_values.VALUES.read_text())
MARKED = [pytest.param(name, marks=[pytest.mark.torture] * case.slow) for name, case in CASES.items()]


HERE, THERE = make_values.machine(), STORED["machine"]


def comparable(name: str) -> bool:
    return HERE == THERE or not CASES[name].same_cpu


@pytest.mark.parametrize("name", MARKED)
def test_values(name):
    if not comparable(name):
        pytest.skip(f"training amplifies rounding, and the values were stored on another machine: {THERE}")
    found = make_values.run(CASES[name], run_script=run_python)
    tolerance = SAME if HERE == THERE else SIMILAR
    differences = make_values.largest_differences(STORED[name], found, tolerance)
    assert not differences, (
        f"{name}: {len(differences)} of {len(STORED[name])} values differ by more than "
        + "\n".join([f"{tolerance:g}:", *differences[:SHOWN]])
    )


def test_differences_are_named():
    stored = {"same": 1.0, "large": 100.0, "small": 0.5, "nan": None, "grid": [1.0, 2.0], "gone": 1.0}
    found = {"same": 1.0 + 1e-9, "large": 101.0, "small": 0.7, "nan": None, "grid": [1.0, 2.5], "new": 1.0}
    named = [text.partition(":")[0] for text in make_values.largest_differences(stored, found, 1e-6)]
    assert named == ["gone", "new", "grid", "small", "large"]
    assert [text.partition(":")[0] for text in make_values.largest_differences(stored, found, 0.1)] == named[:-1]
