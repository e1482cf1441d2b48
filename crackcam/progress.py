"""Progress of long work: a bar at a terminal; elsewhere a message now and then, with the rate and the time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from crackcam.distributed import is_main
from crackcam.text import counted, duration

logger = logging.getLogger(__name__)

OFTEN, SELDOM = 10.0, 600.0  # seconds between two messages: the longer the work takes, the fewer there are

T = TypeVar("T")


class Progress:
    """Counts what is done of a long piece of work, and shows it in the main process.

    Args:
        label: what is being done.
        total: how many items there are.
        unit: name of one item.
        done: items that an earlier run has done.
        leave: whether the bar stays on the terminal at the end.
        first: seconds before the first message, off a terminal.

    Examples:
        >>> from crackcam.progress import Progress
        >>> list(Progress("squaring", 3, "number").over(x * x for x in range(3)))
        [0, 1, 4]
    """

    def __init__(
        self, label: str, total: int, unit: str = "image", done: int = 0, leave: bool = False, first: float = OFTEN
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.plural = f"{unit}es" if unit.endswith(("s", "ch")) else f"{unit}s"
        self.done, self.made = done, 0
        self.started, self.next = time.monotonic(), first
        shown = is_main() and sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(desc=label, total=total, initial=done, unit=unit, leave=leave) if shown else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items; each counts as done when the next one is asked for."""
        with self:
            for item in items:
                yield item
                self.update()

    def update(self, count: int = 1) -> None:
        """Count items as done."""
        self.made += count
        if self.bar is not None:
            self.bar.update(count)
            return
        elapsed = time.monotonic() - self.started
        if self.made and is_main() and elapsed >= self.next and self.done + self.made < self.total:
            self.next = elapsed + min(max(OFTEN, elapsed / 5), SELDOM)
            logger.info("%s", self._message(elapsed))

    def _message(self, elapsed: float) -> str:
        """'scorecam: 3 of 9 images, 12 s each, about 72 s left'."""
        rate, done = self.made / elapsed, self.done + self.made
        pace = f"{rate:,.3g} per second" if rate >= 1 else f"{duration(1 / rate)} each"
        left = duration((self.total - done) / rate)
        return f"{self.label}: {done:,} of {counted(self.total, self.unit, self.plural)}, {pace}, about {left} left"
