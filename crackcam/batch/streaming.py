"""Stream the images of whole folders through a model, and write the results in the order of the files.

The files are divided into batches. Threads decode the next ones while the model processes one and other threads finish
the previous ones; memory holds these few, however many files there are. The row of each image goes into a journal,
``<table>.part/0.jsonl``, one line of JSON each; when it is complete the table is made from it and the journal is
removed. A table is written completely or not at all.

After a kill at any moment ``resume`` truncates the journal behind its last complete batch and continues there: batches
contain the same images as without the kill, so that the numbers are bitwise equal. Files that a row names were complete
before the row was written. ``<table>.part/run.json`` records the settings of the run; other settings are refused.

Under torchrun process r of n takes the batches r, r + n, ... into a journal of its own, ``r.jsonl``; after a barrier
process 0 makes the table from all of them, which equals that of one process. Where a process dies the others end too,
and the journals stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from crackcam.data import images
from crackcam.distributed import all_gather, barrier, check_identical, rank, start, world_size
from crackcam.errors import UserError
from crackcam.files import write_json
from crackcam.progress import Progress
from crackcam.text import counted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


BEHIND = 2  # batches that wait to be finished while the model processes the next
TEMPORARY = f"{'[0-9]' * 5}/.{'[0-9]' * 7}_*"  # in folders of shards: temporary files of write_atomically

SHOWN_VALUE = 32  # characters; longer values, hashes say, are not shown where they differ

Row = dict[str, Any]


class Item(NamedTuple):
    """One image of a batch: its place in the list of files, its file, and what ``prepare`` made of its pixels."""

    place: int
    path: Path
    prepared: Any


@dataclass(frozen=True)
class Run:
    """Which images are streamed, and into which table.

    Attributes:
        table: the file that is made from all rows at the end.
        files: class, "" where it is not known, and file.
        batch_size: images at a time.
        settings: everything else that rows depend on, by the name of its flag; JSON.
        verb: for the progress bar.
    """

    table: Path
    files: Sequence[tuple[str, Path]]
    batch_size: int
    settings: dict[str, Any]
    verb: str

    @property
    def part(self) -> Path:
        """The folder of the journals."""
        return self.table.with_name(f"{self.table.name}.part")

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the interrupted one."""
        names = "\n".join(f"{name}\t{path}" for name, path in self.files)
        return {
            **self.settings,
            "batch-size": self.batch_size,
            "processes (torchrun)": world_size(),
            "list of files": hashlib.blake2b(os.fsencode(names), digest_size=16).hexdigest(),
        }

    @property
    def batches(self) -> list[range]:
        """Places of the files of each batch."""
        number, size = len(self.files), self.batch_size
        return [range(start, min(start + size, number)) for start in range(0, number, size)]

    @property
    def own_batches(self) -> list[range]:
        """The batches of this process."""
        return self.batches[rank() :: world_size()]

    def head(self, place: int) -> Row:
        """The start of a row: the file and its true class."""
        name, path = self.files[place]
        return {"file": str(path), "true": name or None}


def stream(
    run: Run,
    prepare: Callable[[np.ndarray], Any],
    work: Callable[[list[Item]], list[Callable[[], Row]]],
    resume: bool,
    folders: Sequence[Path] = (),
) -> None:
    """Fill the journals; returns when those of all processes are complete.

    Args:
        run: which images.
        prepare: makes from (H, W, 3) uint8 what ``work`` needs; runs in decoding threads.
        work: gets the readable images of a batch, and returns for each a function that makes its row, which runs in
            finishing threads.
        resume: continue an interrupted run.
        folders: where ``work`` writes files; partial files that a kill left there are removed.

    Raises:
        UserError: another run is writing here; the interrupted run had other settings; or processes differ in them.
    """
    start(None)  # on GPUs too: processes exchange nothing but their progress
    resumed = resume and _may_resume(run)
    if not resumed and rank() == 0 and (run.part / "run.json").exists():
        logger.info("%s holds an interrupted run, which --resume would continue; starting from the beginning", run.part)
    check_identical(**run.identity)  # also: all have read the old state before one changes it
    run.part.mkdir(parents=True, exist_ok=True)
    own = run.own_batches
    with _journal(run) as journal:
        done = _truncate(journal, [len(batch) for batch in own] if resumed else [])
        if rank() == 0:
            for leftover in (path for folder in folders for path in folder.glob(TEMPORARY)):
                leftover.unlink()
        barrier()  # no journal holds rows of another run
        if rank() == 0:
            write_json(run.part / "run.json", run.identity)
        kept = sum(all_gather(sum(map(len, own[:done]))))  # also: nobody writes rows before run.json is written
        if kept:
            logger.info("resuming after %s", counted(kept, "image"))
        _fill(run, journal, own[done:], prepare, work)
    barrier()


def _may_resume(run: Run) -> bool:
    state = run.part / "run.json"
    if not state.exists():
        logger.info("nothing to resume at %s; starting from the beginning", run.part)
        return False
    check_same(read_document(state), run)
    return True


def read_document(path: Path) -> dict:
    """The JSON document of a run; raises UserError where it is damaged."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: leave --resume out")
    return document


def check_same(before: dict, run: Run) -> None:
    """Raises UserError, naming what differs, where a run was started with other settings."""
    now = json.loads(json.dumps(run.identity))
    changed = [
        f"{name} was {before.get(name)}, is {value}"
        if max(len(str(value)), len(str(before.get(name)))) < SHOWN_VALUE
        else f"another {name}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise UserError(
            f"--resume cannot continue {run.part}: {', '.join(changed)}; repeat the settings that it was started with, "
            "or leave --resume out"
        )


@contextlib.contextmanager
def _journal(run: Run) -> Iterator[IO[bytes]]:
    """This process's journal, locked: a worker may outlive a torchrun that was killed."""
    path = run.part / f"{rank()}.jsonl"
    with path.open("a+b") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing {path}: wait for it, or end it") from None
        except OSError as error:  # some network drives
            logger.warning("%s cannot be locked (%s): start no second run into it", path, error.strerror)
        yield file


def _truncate(journal: IO[bytes], sizes: Iterable[int]) -> int:
    """Truncate a journal behind the last batch whose lines are all complete; returns the number of such batches."""
    journal.seek(0)
    kept = done = 0
    for size in sizes:
        lines = list(islice(journal, size))
        if len(lines) < size or not lines[-1].endswith(b"\n"):
            break
        kept += sum(map(len, lines))
        done += 1
    journal.truncate(kept)
    journal.seek(kept)
    return done


def _fill(run: Run, journal: IO[bytes], batches: Sequence[range], prepare: Callable, work: Callable) -> None:
    """Process batches of this process, the last ones of its own, and write their rows."""
    import torch

    threads = max(2, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    paths = (run.files[place][1] for batch in batches for place in batch)
    reading = images.read_images(paths, prepare, threads, ahead=2 * run.batch_size)
    waiting: deque[list[Future[Row] | Row]] = deque()
    bar = _progress(run, sum(map(len, batches)))

    def write() -> None:
        rows = [row.result() if isinstance(row, Future) else row for row in waiting.popleft()]
        # In one piece: a kill cuts off the end of the file, never the middle.
        journal.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        journal.flush()
        bar.update(len(rows))

    # A thread that finishes images works on small tensors: threads of its own would only slow the model down.
    finishing = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with bar, contextlib.closing(cast(Generator, reading)), finishing as pool:
        for batch in batches:
            waiting.append(_start_batch(run, pool, list(zip(batch, reading, strict=False)), work))
            if len(waiting) > BEHIND:
                write()
        while waiting:
            write()


def _start_batch(run: Run, pool: ThreadPoolExecutor, batch: list[tuple[int, Any]], work: Callable) -> list:
    """Rows of a batch, (place, what was read) each, or futures of them."""
    items = [Item(place, found.path, found.pixels) for place, found in batch if isinstance(found, images.DecodedImage)]
    makers = work(items) if items else []
    rows: dict[int, Future[Row] | Row] = {
        item.place: pool.submit(_row, run, item.place, make) for item, make in zip(items, makers, strict=True)
    }
    for place, found in batch:
        if isinstance(found, images.UnreadableImage):
            rows[place] = {**run.head(place), "error": found.reason}
    return [rows[place] for place, _ in batch]


def _row(run: Run, place: int, make: Callable[[], Row]) -> Row:
    return {**run.head(place), **make()}


def _progress(run: Run, remaining: int) -> Progress:
    several = f" (process 1 of {world_size()})" if world_size() > 1 else ""
    total = sum(map(len, run.own_batches))
    return Progress(f"{run.verb}{several}", total, done=total - remaining, leave=True)


def _cores() -> int:
    """Processors that this process may use: in a container or under Slurm fewer than all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows(run: Run) -> Iterator[Row]:
    """All rows, in the order of the files; the journals must be complete."""
    with contextlib.ExitStack() as stack:
        journals = [stack.enter_context((run.part / f"{r}.jsonl").open(encoding="utf-8")) for r in range(world_size())]
        for number, batch in enumerate(run.batches):
            process = number % len(journals)
            lines = list(islice(journals[process], len(batch)))
            if len(lines) < len(batch):
                raise RuntimeError(f"{run.part}/{process}.jsonl is not complete")
            yield from map(json.loads, lines)


def clear(run: Run) -> None:
    """Remove the journals; first run.json, which marks an interrupted run."""
    (run.part / "run.json").unlink(missing_ok=True)
    shutil.rmtree(run.part, ignore_errors=True)
