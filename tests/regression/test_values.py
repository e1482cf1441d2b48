"""The scripts still give the numbers that make_values.py stored before the code was restructured."""

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor

import make_values
import pytest
from make_values import CASES

SAME, SIMILAR = 1e-6, 2e-3  # largest differences: on the machine of the stored values, on others
SHOWN = 12
STORED = json.loads(make_values.VALUES.read_text())
MARKED = [pytest.param(name, marks=[pytest.mark.torture] * case.slow) for name, case in CASES.items()]


@pytest.fixture(scope="module")
def found(request) -> dict[str, Future]:
    """The values of the cases that were chosen; they are computed at the same time."""
    chosen = [item.callspec.params["name"] for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(make_values.run, CASES[name]) for name in chosen}


@pytest.mark.parametrize("name", MARKED)
def test_values(name, found):
    here, there = make_values.machine(), STORED["machine"]
    if CASES[name].same_cpu and here != there:
        pytest.skip(f"training amplifies rounding, and the values were stored on another machine: {there}")
    tolerance = SAME if here == there else SIMILAR
    differences = make_values.largest_differences(STORED[name], found[name].result(), tolerance)
    assert not differences, (
        f"{name}: {len(differences)} of {len(STORED[name])} values differ by more than "
        + "\n".join([f"{tolerance:g}:", *differences[:SHOWN]])
    )
