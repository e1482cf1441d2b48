"""Command-line conventions shared by the scripts: messages, exit codes, signals.

Results go to stdout, messages and progress to stderr. Exit codes: 0 done; 2 usage or input error (one line,
``error: ...``); 130 interrupted, 143 by SIGTERM; 141 output pipe closed; anything else is a bug and shows a traceback.
Torch is imported only after the arguments are parsed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from crackcam import distributed
from crackcam.cli.signals import signals_end_the_script
from crackcam.errors import UserError
from crackcam.text import visible

logger = logging.getLogger(__name__)

USAGE_ERROR, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # the last two as shells report SIGINT and SIGPIPE

NO_SHARED_MEMORY = "out of shared memory: in Docker add --shm-size 2g, or --ipc host; or try --workers 0, and --resume"
OWN_PACKAGES = ("crackcam", "pytorch_grad_cam")
INSTALL = "activate the environment (. .venv/bin/activate), or install what is missing (pip install .)"

# What libraries raise where the machine is at its limits: part of it -> what to do
ADVICE = {
    "shared memory": NO_SHARED_MEMORY,
    "</torch_": NO_SHARED_MEMORY,  # a file of torch in it
    "OutOfMemoryError": "out of memory on the GPU: try a smaller --batch-size",
    "MemoryError": "out of memory: try a smaller --batch-size, or smaller images",
    "DefaultCPUAllocator: can't allocate memory": "out of memory: try a smaller --batch-size",
    "DataLoader worker": "a worker process was killed, as where memory runs out: try fewer --workers, and --resume",
}


class Main(Protocol):
    """A script's main."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """Turns exceptions of a script's ``main`` into its exit code and one line on stderr."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        keep_freed_memory()
        prepare_streams()
        try:
            with log_to_stderr(), signals_end_the_script():
                return _finish(main, argv)
        except UserError as error:
            return _usage_error(error.with_flags)
        except BrokenPipeError:  # the reader of the results, head say, has enough of them
            return PIPE_CLOSED
        except OSError as error:
            if error.strerror is None:
                raise
            return _usage_error(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        except ImportError as error:
            package = str(error.name).split(".")[0]
            if isinstance(error, ModuleNotFoundError) and package not in OWN_PACKAGES:
                return _usage_error(f"no package {package} for {sys.executable}: {INSTALL}")
            if ".so" not in str(error):
                raise
            return _usage_error(f"a system library is missing ({error}); opencv-python-headless needs none")
        except KeyboardInterrupt:
            _to_stderr("interrupted")
            return INTERRUPTED
        except (MemoryError, RuntimeError) as error:
            text = f"{type(error).__name__}: {error}"
            advice = next((advice for part, advice in ADVICE.items() if part in text), None)
            if not advice:
                raise
            return _usage_error(advice)
        finally:
            abandon_unwritable_streams()

    return run


def _finish(main: Main, argv: Sequence[str] | None) -> int:
    try:
        code = main(argv)
    except SystemExit as exit_:  # argparse: --help; SIGTERM
        code = int(exit_.code or 0)
    sys.stdout.flush()
    if code == 0:
        distributed.stop()
    return code


def _usage_error(message: str) -> int:
    """Any process may be the one that meets an error."""
    who = "error" if distributed.is_main() else f"error in process {distributed.rank()}"
    _print_message(f"{who}: {' '.join(message.split())}")
    return USAGE_ERROR


# -- streams ---------------------------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Make standard streams accept any text, whatever their encoding, and exist where the caller closed them.

    Without them Python prints messages among the results, and the next file that is opened gets the messages of
    libraries.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def abandon_unwritable_streams() -> None:
    """What cannot be written, to a closed pipe or a full disk, would fail once more when Python exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# -- messages and results --------------------------------------------------------------------------------------------


class _Formatter(logging.Formatter):
    """Messages as they are at INFO; ``warning: ...`` and the like above it."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return visible(level + record.getMessage())


class _Handler(logging.Handler):
    """Writes to what is standard error at that moment, from the main process."""

    def emit(self, record: logging.LogRecord) -> None:
        _to_stderr(self.format(record))


def _to_stderr(line: str) -> None:
    if distributed.is_main():
        _print_message(line)


def _print_message(line: str) -> None:
    with contextlib.suppress(OSError):  # results do not depend on whether somebody reads the messages
        print(visible(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Within it, messages of the package, of INFO and above, and Python's warnings go to standard error."""
    package, handler = logging.getLogger("crackcam"), _Handler()
    handler.setFormatter(_Formatter())
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    show = warnings.showwarning
    warnings.showwarning = lambda message, *place, **more: logger.warning("%s", message)
    try:
        yield
    finally:
        warnings.showwarning = show
        package.removeHandler(handler)
        package.setLevel(level)


def say(line: str) -> None:
    """One line of results on stdout."""
    print(visible(line))


def print_json(document: Any) -> None:
    """A result for a machine, on stdout."""
    print(json.dumps(document, indent=2))


# -- memory ----------------------------------------------------------------------------------------------------------


def import_without_collection(name: str) -> ModuleType:
    """Import a module while the garbage collector rests: it would find nothing, in a sixth of the time.

    What is there afterwards is never looked at again: it stays until the process ends.
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Lets glibc keep the memory that one step frees for the next one.

    By default it hands large blocks back to the kernel, which clears each page again when the next step asks for it: a
    quarter of the time of a training step on CPUs. Nothing to do on other systems, or where the user has set it.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        if not mallopt(mmap_threshold, 2**30):
            mallopt(mmap_threshold, 2**25)  # the maximum before glibc 2.35
