"""Does bf16 predict as fp32 does: fraction of images of the same class, and the largest difference of a probability.

    python benchmarks/precision.py --data DIR --weights FILE        all images of the test split

The flags are those of inference.py --all.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import inference


def compare(one: list[dict[str, str]], other: list[dict[str, str]]) -> tuple[int, int, float]:
    """Images, those of the same class, and the largest difference of a probability."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if not a["error"]]
    alike = sum(a["predicted"] == b["predicted"] for a, b in both)
    apart = max(abs(float(a[name]) - float(b[name])) for a, b in both for name in a if name.startswith("p_"))
    return len(both), alike, apart


def main(argv: Sequence[str] | None = None) -> int:
    flags = [*(sys.argv[1:] if argv is None else argv), "--all"]
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            path = Path(folder, f"{precision}.csv")
            code = inference.main([*flags, "--precision", precision, "--output", str(path)])
            if code:
                return code
            with path.open(newline="", encoding="utf-8-sig") as file:
                tables[precision] = list(csv.DictReader(file))
    count, alike, apart = compare(tables["fp32"], tables["bf16"])
    print(
        f"bf16 and fp32: same class for {alike:,} of {count:,} images, {100 * alike / count:.2f} %; "
        f"largest difference of a probability: {apart:.4f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
