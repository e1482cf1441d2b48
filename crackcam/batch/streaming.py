"""Stream the images of whole folders through a model, and write the results in the order of the files.

The files are divided into batches. Threads decode the next ones while the model processes one and other threads finish
the previous ones; memory holds these few, however many files there are, and of decoded images no more than some bytes.
An image that is large (:class:`Alone`) is processed as soon as it is read, the others of its batch together. The row of
each image goes into a journal, ``<table>.part/0.jsonl``, one line of JSON each; when it is complete the table is made
from it and the journal is removed. A table is written completely or not at all.

After a kill at any moment ``resume`` truncates the journal behind its last complete batch, or behind the large images
at the start of the next one, and continues there: images are processed together with the same others as without the
kill, so that the numbers are bitwise equal. Files that a row names were complete before the row was written.
``<table>.part/run.json`` records the settings of the run; other settings are refused.

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
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from crackcam.data import images
from crackcam.distributed import all_gather, barrier, check_identical, rank, start, world_size
from crackcam.errors import UserError
from crackcam.files import remove_temporary_files, write_json
from crackcam.progress import Progress
from crackcam.text import counted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


BEHIND = 2  # batches, and large images, that wait to be finished while the model processes the next
TEMPORARY = f"{'[0-9]' * 5}/.{'[0-9]' * 7}_*"  # in folders of shards: temporary files of write_atomically

SHOWN_VALUE = 32  # characters; longer values, hashes say, are not shown where they differ

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]  # each call gives all rows from the first on


class Item(NamedTuple):
    """One image of a batch: its place in the list of files, its file, and what ``prepare`` made of its pixels."""

    place: int
    path: Path
    prepared: Any


class Alone(NamedTuple):
    """What ``prepare`` made of a large image, which is processed alone: a batch of them would not fit in memory."""

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
    read: Callable[[Path], Any] = images.read_image,
) -> None:
    """Fill the journals; returns when those of all processes are complete.

    Args:
        run: which images.
        prepare: makes from (H, W, 3) uint8 what ``work`` needs; runs in decoding threads.
        work: gets the readable images of a batch, and returns for each a function that makes its row, which runs in
            finishing threads.
        resume: continue an interrupted run.
        folders: where ``work`` writes files; partial files that a kill left there, or beside the table, are removed.
        read: what ``prepare`` gets of a file; runs in decoding threads.

    Raises:
        UserError: another run is writing here; the interrupted run had other settings; or processes differ in them.
    """
    begun = time.time()
    start(None)  # on GPUs too: processes exchange nothing but their progress
    resumed = resume and _may_resume(run)
    if not resumed and rank() == 0 and (run.part / "run.json").exists():
        logger.info("%s holds an interrupted run, which --resume would continue; starting from the beginning", run.part)
    check_identical(**run.identity)  # also: all have read the old state before one changes it
    run.part.mkdir(parents=True, exist_ok=True)
    own = run.own_batches
    with _journal(run) as journal:
        done, more = _truncate(journal, [len(batch) for batch in own] if resumed else [])
        if rank() == 0:
            for leftover in (path for folder in folders for path in folder.glob(TEMPORARY)):
                leftover.unlink()
            remove_temporary_files(run.table, ("csv", "jsonl", "json"), begun)
        barrier()  # no journal holds rows of another run
        if rank() == 0:
            write_json(run.part / "run.json", run.identity)
        kept = sum(all_gather(sum(map(len, own[:done])) + more))  # also: nobody writes rows before run.json is written
        if kept:
            logger.info("resuming after %s", counted(kept, "image"))
        remaining = [own[done][more:], *own[done + 1 :]] if more else own[done:]
        _Stream(run, journal, remaining, work).fill(prepare, read)
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
    check_identity(before, run.identity, run.part)


def check_identity(before: dict, identity: dict, part: Path) -> None:
    """Raises UserError, naming what differs between two identities of the run in a folder."""
    now = json.loads(json.dumps(identity))
    changed = [
        f"{name} was {before.get(name)}, is {value}"
        if max(len(str(value)), len(str(before.get(name)))) < SHOWN_VALUE
        else f"another {name}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise UserError(
            f"--resume cannot continue {part}: {', '.join(changed)}; repeat the settings that it was started with, "
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


def _truncate(journal: IO[bytes], sizes: Iterable[int]) -> tuple[int, int]:
    """Truncate a journal to what need not be done again.

    Args:
        journal: one line for each image.
        sizes: images of each batch.

    Returns:
        The number of batches whose lines are all complete; and of the next one the number of images before the first
        that is processed together with others.
    """
    journal.seek(0)
    kept = done = more = 0
    for size in sizes:
        lines = [line for line in islice(journal, size) if line.endswith(b"\n")]
        if len(lines) < size:
            alone = list(takewhile(_is_alone, lines))
            kept, more = kept + sum(map(len, alone)), len(alone)
            break
        kept += sum(map(len, lines))
        done += 1
    journal.truncate(kept)
    journal.seek(kept)
    return done, more


def _is_alone(line: bytes) -> bool:
    """Whether the row depends on no other image of its batch: it was read in tiles, or could not be read."""
    row = json.loads(line)
    return row.get("tiles", 1) > 1 or "error" in row


class _Stream:
    """Processes batches of one process, the last ones of its own, and writes their rows.

    Attributes:
        waiting: rows, or futures of them, in blocks that are written in one piece: a kill cuts off the end of the file,
            never the middle.
    """

    def __init__(self, run: Run, journal: IO[bytes], batches: Sequence[range], work: Callable) -> None:
        self.run, self.journal, self.batches, self.work = run, journal, batches, work
        self.waiting: deque[list[Future[Row] | Row]] = deque()
        self.bar = _progress(run, sum(map(len, batches)))
        self.threads = max(2, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def fill(self, prepare: Callable, read: Callable[[Path], Any]) -> None:
        """Process all batches."""
        import torch

        paths = (self.run.files[place][1] for batch in self.batches for place in batch)
        reading = images.read_images(paths, prepare, self.threads, 2 * self.run.batch_size, read=read)
        # A thread that finishes images works on small tensors: threads of its own would only slow the model down.
        torch.get_num_threads()  # asked once, a thread keeps its number, whatever others set for themselves
        self.pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        with self.bar, contextlib.closing(cast(Generator, reading)), self.pool:
            for batch in self.batches:
                for block in self._blocks(zip(batch, reading, strict=False)):
                    self.waiting.append(block)
                    if len(self.waiting) > BEHIND:
                        self._write()
            while self.waiting:
                self._write()

    def _write(self) -> None:
        rows = [row.result() if isinstance(row, Future) else row for row in self.waiting.popleft()]
        self.journal.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self.journal.flush()
        self.bar.update(len(rows))

    def _blocks(self, batch: Iterable[tuple[int, Any]]) -> Iterator[list[Future[Row] | Row]]:
        """Rows of a batch, (place, what was read) each, or futures of them.

        A large image before the first other one ends a block; the rest of the batch is the last block.
        """
        rows: dict[int, Future[Row] | Row] = {}
        together: list[Item] = []
        finishing: deque[Future[Row]] = deque()
        for place, found in batch:
            if isinstance(found, images.UnreadableImage):
                rows[place] = {**self.run.head(place), "error": found.reason}
            elif isinstance(found.pixels, Alone):
                (row,) = self._started([Item(place, found.path, found.pixels.prepared)])
                rows[place] = row
                finishing.append(row)
                if len(finishing) > BEHIND:  # they hold their images
                    finishing.popleft().exception()
                if not together:
                    yield list(rows.values())
                    rows = {}
            else:
                rows[place] = {}  # in the order of the files
                together.append(Item(place, found.path, found.pixels))
        for item, future in zip(together, self._started(together), strict=True):
            rows[item.place] = future
        if rows:
            yield list(rows.values())

    def _started(self, items: list[Item]) -> list[Future[Row]]:
        makers = self.work(items) if items else []
        return [self.pool.submit(_row, self.run, item.place, make) for item, make in zip(items, makers, strict=True)]


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
