"""Manners that the three scripts share: flags, messages, exit codes, device and precision.

Results go to stdout, notes and progress to stderr. Exit codes: 0 done; 2 the user can mend it (one line,
``error: ...``); 130 interrupted, 143 by SIGTERM; 141 nobody reads the results any more; anything else is our fault and
shows a traceback. Torch is imported only after the arguments are parsed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from crackcam import config, distributed
from crackcam.methods import OWN

if TYPE_CHECKING:
    from types import FrameType

from crackcam.config import DATA, LARGEST_SIZE, OUTPUTS, WEIGHTS
from crackcam.errors import UserError
from crackcam.text import visible

logger = logging.getLogger(__name__)

SYSTEM_LIBRARIES = "libgl1 libglib2.0-0"  # what OpenCV's wheel expects, by Debian's names
READER_GONE = 141  # what shells say of a program that SIGPIPE ended

# What libraries raise where the machine is at its limits: words of it -> what to do
ADVICE = {
    "OutOfMemoryError": "out of memory on the GPU: try a smaller --batch-size",
    "MemoryError": "out of memory: try a smaller --batch-size, or smaller pictures",
    "DefaultCPUAllocator: can't allocate memory": "out of memory: try a smaller --batch-size",
    "DataLoader worker": "a process that augments was killed, as where memory runs out: try fewer --workers (0: none), "
    "and --resume",
}


class Parser(argparse.ArgumentParser):
    """argparse whose usage errors are one line; the script's docstring is its manual."""

    def __init__(self, manual: str) -> None:
        super().__init__(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As argparse, with the whole command as ``command``."""
        words = sys.argv[1:] if args is None else args
        if any(word == "--" or word.endswith("=--") for word in words):
            self.error("-- stands for nothing here")  # argparse of Python 3.11 would make an empty list of it
        found = super().parse_args(words, namespace)
        config._offline = found.offline
        found.command = shlex.join(["python", self.prog, *words])
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see python {self.prog} --help)")


class Main(Protocol):
    """A script's main."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """Turns what goes wrong in a script's ``main`` into its exit code and one line on stderr."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        keep_freed_memory()
        log_to_stderr()
        try:
            with _heeding_signals():
                try:
                    code = main(argv)
                except SystemExit as exit_:  # argparse: --help; SIGTERM
                    code = int(exit_.code or 0)
                sys.stdout.flush()
            if code == 0:
                distributed.stop()
            return code
        except UserError as error:
            _complain(str(error))
            return 2
        except BrokenPipeError:  # whoever reads the results, head say, has enough of them
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it in the end
            return READER_GONE
        except OSError as error:
            if error.strerror is None:
                raise
            _complain(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
            return 2
        except ImportError as error:
            if ".so" not in str(error):
                raise
            _complain(f"a system library is missing ({error}); on Debian: apt-get install {SYSTEM_LIBRARIES}")
            return 2
        except KeyboardInterrupt:
            logger.info("interrupted")
            return 130
        except (MemoryError, RuntimeError) as error:
            advice = next((says for words, says in ADVICE.items() if words in f"{type(error).__name__}: {error}"), None)
            if not advice:
                raise
            _complain(advice)
            return 2

    return run


@contextlib.contextmanager
def _heeding_signals() -> Iterator[None]:
    """SIGTERM ends a script as Ctrl-C does, so that no half file is left; exit code 143.

    Not under torchrun: a process that waits for another heeds nothing, and would be waited for.
    """
    usual: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    at_once = threading.current_thread() is threading.main_thread() and distributed.world_size() == 1
    ours = [number for number, handler in usual.items() if at_once and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def _end(number: int, frame: FrameType | None) -> None:
    """Raises what a signal stands for; in the middle of an import later, for C++ that imports aborts the process."""
    files = [f.f_code.co_filename for f, _ in traceback.walk_stack(frame)]
    above = itertools.takewhile(lambda file: file != __file__, files)  # below, whoever calls may be importing
    importing = any(file.startswith("<frozen importlib") for file in above)
    if importing and hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, lambda _, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _complain(what: str) -> None:
    """Any process may be the one that has something to say."""
    who = "error" if distributed.is_main() else f"error in process {distributed.rank()}"
    print(visible(f"{who}: {' '.join(what.split())}"), file=sys.stderr, flush=True)


# -- values of flags -----------------------------------------------------------------------------------


def _number(kind: type, low: float, high: float, words: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return value

    return parse


positive_int = _number(int, 1, 10**9, "a whole number above 0")
whole_number = _number(int, 0, 10**5, "a whole number from 0 to 100,000")
seed = _number(int, 0, 2**32 - 1, "a whole number from 0 to 4,294,967,295")
processes = _number(int, 0, 256, "a whole number from 0 to 256")
image_size = _number(int, 8, LARGEST_SIZE, f"a whole number from 8 to {LARGEST_SIZE}")
positive_float = _number(float, 1e-12, 1e12, "a number above 0")
weight = _number(float, 0, 1e6, "a number from 0 up")
threshold = _number(float, 0, 1e12, "a number from 0 up")
share = _number(float, 0, 1, "a number from 0 to 1")
fraction = _number(float, 0.01, 0.9, "a fraction from 0.01 to 0.9")
_scale = _number(float, 0.25, 8, "own, or a number from 0.25 to 8")


def pattern(text: str) -> str:
    """A regular expression, as it is."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def split_names(text: str) -> list[str]:
    """'a,b' -> ['a', 'b']."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def name(text: str) -> str:
    """Any text but an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return text


def path(text: str) -> Path:
    """A name that a file or a folder can have; an empty one would be the working directory."""
    try:
        possible = text and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise argparse.ArgumentTypeError(f"{text!r} can be no file's name")
    return Path(text)


def scales(text: str) -> list[float | str]:
    """'1,2,own' -> [1.0, 2.0, 'own']."""
    return [OWN if name == OWN else _scale(name) for name in text.split(",")]


def html_file(text: str) -> Path:
    """A name that ends in .html."""
    if not text.lower().endswith(".html"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .html")
    return path(text)


# -- flags of more than one script ------------------------------------------------------------------------


def add_machine_flags(parser: argparse.ArgumentParser, precision: str) -> None:
    """--device, --precision, --offline."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda|mps", help="auto: cuda, then mps, then cpu")
    group.add_argument(
        "--precision", default=precision, choices=("auto", "fp32", "bf16"),
        help=f"auto: bf16 where the processor has it natively (default: {precision})",
    )  # fmt: skip
    group.add_argument("--offline", action="store_true", help="fetch no weights: those at hand only")


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    """Which pictures to look at, and with which network."""
    group = parser.add_argument_group("pictures and network")
    group.add_argument("--type", metavar="CLASS", help="class folder to look at (default: Positive, else the first)")
    group.add_argument("--data", type=path, default=DATA, metavar="DIR", help="class folders (default: data)")
    group.add_argument("--split", choices=("train", "val", "test"), help="default: test, else val")
    group.add_argument("--image", type=path, nargs="+", metavar="PATH", help="these pictures, folders, globs instead")
    group.add_argument("--num", type=positive_int, default=9, metavar="N", help="pictures to draw (default: 9)")
    group.add_argument("--seed", type=seed, default=0, help="chooses the pictures (default: 0)")
    group.add_argument(
        "--weights",
        type=path,
        metavar="FILE",
        help=f"checkpoint (default: {WEIGHTS}, else the one for cracks that comes along)",
    )
    group.add_argument(
        "--arch",
        type=name,
        help="the ImageNet network or detector of that name; with --weights FILE.pth, what it holds",
    )
    group.add_argument(
        "--pretrained", choices=("auto", "none"), default="auto", help="none: --arch with random weights"
    )
    group.add_argument("--classes", type=split_names, metavar="A,B", help="class names in index order, for a .pth")
    group.add_argument("--top-k", type=positive_int, metavar="K", help="classes shown (default: 3; of 1,000, 5)")
    group.add_argument("--batch-size", type=positive_int, default=32, metavar="N", help="default: 32")
    group.add_argument(
        "--score-threshold", type=share, default=0.5, metavar="S", help="boxes of a detector score more (default: 0.5)"
    )


def add_stream_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """--all, --resume."""
    parser.add_argument("--all", action="store_true", help=f"every picture (of --type, else of all classes): {what}")
    parser.add_argument("--resume", action="store_true", help="with --all: go on with the run that was killed")


def check_stream_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags, or a call by torchrun, that go with --all alone."""
    if args.resume and not args.all:
        raise UserError("--resume goes on with --all: add it")
    if distributed.world_size() > 1 and not args.all:
        raise UserError("several processes share the pictures of --all: add it, or run without torchrun")
    suffixes = (".csv", ".jsonl") if args.all else (".png",)
    if args.output and args.output.suffix.lower() not in suffixes:
        raise UserError(f"--output {args.output} must end in {' or '.join(suffixes)}")


def add_report_flag(parser: argparse.ArgumentParser) -> None:
    """--report."""
    parser.add_argument(
        "--report", type=html_file, nargs="?", const=OUTPUTS / "report.html", metavar="FILE",
        help="also one web page to look at and to mail (default: outputs/report.html)",
    )  # fmt: skip


def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one.

    By default it hands large blocks back to the kernel, which clears each page anew when the next step asks for it:
    on processors a quarter of the time of a training step. Nothing to do elsewhere, or where the user has set it.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        if not mallopt(mmap_threshold, 2**30):
            mallopt(mmap_threshold, 2**25)  # the most that glibc took before 2.35


def say(line: str) -> None:
    """One line of results on stdout."""
    print(visible(line))


class _Formatter(logging.Formatter):
    """Lines without level at INFO; ``warning: ...`` and the like above it."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return visible(level + record.getMessage())


class _Handler(logging.StreamHandler):
    """Writes to what is standard error now, from the main process."""

    def emit(self, record: logging.LogRecord) -> None:
        if distributed.is_main():
            self.stream = sys.stderr
            super().emit(record)


def log_to_stderr() -> None:
    """Sends messages of the package, of INFO and above, to standard error."""
    package = logging.getLogger("crackcam")
    if not any(isinstance(handler, _Handler) for handler in package.handlers):
        handler = _Handler()
        handler.setFormatter(_Formatter())
        package.addHandler(handler)
        package.setLevel(logging.INFO)
