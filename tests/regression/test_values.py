"""The scripts still give the numbers that make_values.py stored before the code was restructured."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor

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


@pytest.fixture(scope="module")
def found(request) -> dict[str, Future]:
    """The values of the cases that were chosen; they are computed at the same time."""
    here = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["name"] for item in here if item.originalname == "test_values"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            name: pool.submit(make_values.run, CASES[name], run_script=run_python)
            for name in filter(comparable, chosen)
        }


@pytest.mark.parametrize("name", MARKED)
def test_values(name, found):
    if not comparable(name):
        pytest.skip(f"training amplifies rounding, and the values were stored on another machine: {THERE}")
    tolerance = SAME if HERE == THERE else SIMILAR
    differences = make_values.largest_differences(STORED[name], found[name].result(), tolerance)
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
