"""SIGTERM and SIGINT end a script in an orderly way."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from crackcam import distributed

CLI = os.path.dirname(__file__)  # noqa: PTH120 - compared with the file names of frames


@contextlib.contextmanager
def signals_end_the_script() -> Iterator[None]:
    """Within it, SIGTERM ends a script as Ctrl-C does, so that no partial file is left; exit code 143.

    Not under torchrun: a process that waits for another does not handle signals, and would be waited for.
    """
    usual: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    alone = threading.current_thread() is threading.main_thread() and distributed.world_size() == 1
    ours = [number for number, handler in usual.items() if alone and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def _end(number: int, frame: FrameType | None) -> None:
    """Raises what a signal stands for; during an import later: that of C++ code would abort the process."""
    files = [f.f_code.co_filename for f, _ in traceback.walk_stack(frame)]
    above = itertools.takewhile(lambda file: not file.startswith(CLI), files)  # below, whoever calls may be importing
    importing = any(file.startswith("<frozen importlib") for file in above)
    if importing and hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
