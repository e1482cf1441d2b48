"""Whole folders: pictures stream through a network, and what comes out is written in the order of the files.

The files are cut into batches. Threads decode those ahead, the network works on one, threads finish those behind it;
memory holds these few, however many there are. Each picture's row goes into a journal, ``<table>.part/0.jsonl``, one
line of JSON each; when all are there the table is made of it, and the journal goes. A table is there whole or not at
all.

After a kill at any moment ``resume`` cuts the journal down to its last whole batch and goes on behind it: batches hold
the same pictures as without the kill, so that the numbers are the same bit by bit. Files that a row names were whole
before it was written. ``<table>.part/run.json`` says what the run was started with; anything else is refused.

Under torchrun process r of n takes the batches r, r + n, ... into a journal of its own, ``r.jsonl``; when all have met,
process 0 makes the table of them, which is that of one process. A process that dies takes the others along, and leaves
journals.
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
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from crackcam.data import images
from crackcam.distributed import all_gather, barrier, check_identical, hide_progress, rank, start, world_size
from crackcam.errors import UserError
from crackcam.files import write_json
from crackcam.text import counted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


BEHIND = 2  # batches that wait to be finished while the network works on the next
TEMPORARY = f"{'[0-9]' * 5}/.{'[0-9]' * 7}_*"  # names, in folders of shards, of what write_atomically was at

Row = dict[str, Any]


class Item(NamedTuple):
    """One picture of a batch: its place in the list of files, its file, and what ``prepare`` made of its pixels."""

    place: int
    path: Path
    prepared: Any


class Run(NamedTuple):
    """What is streamed, and into what.

    Attributes:
        table: the file that is made of all rows in the end.
        files: class, "" where it is not known, and file.
        batch_size: pictures at a time.
        settings: all else that rows depend on, by the name of its flag; JSON.
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
        """What a run must share with the one that it goes on with."""
        names = "\n".join(f"{name}\t{path}" for name, path in self.files)
        return {
            **self.settings, "batch-size": self.batch_size, "processes (torchrun)": world_size(),
            "list of files": hashlib.blake2b(os.fsencode(names), digest_size=16).hexdigest(),
        }  # fmt: skip


def stream(
    run: Run,
    prepare: Callable[[np.ndarray], Any],
    work: Callable[[list[Item]], list[Callable[[], Row]]],
    resume: bool,
    folders: Sequence[Path] = (),
) -> None:
    """Fill the journals; returns when those of all processes are complete.

    Args:
        prepare: makes of (H, W, 3) uint8 what ``work`` needs; runs in decoding threads.
        work: gets the readable pictures of a batch, and returns for each a function that makes its row, which runs in
            finishing threads.
        resume: go on with what was killed.
        folders: where ``work`` writes files; what a kill left of them half written is removed.

    Raises:
        UserError: another run writes here; what is there was started in another way; or processes differ in it.
    """
    start(None)  # on GPUs too: all that passes between processes is that they have come so far
    going_on = resume and _may_resume(run)
    if not going_on and rank() == 0 and (run.part / "run.json").exists():
        logger.info(f"{run.part} holds an interrupted run, which --resume would go on with; starting afresh")
    check_identical(**run.identity)  # and all have looked at the old state before anyone changes it
    run.part.mkdir(parents=True, exist_ok=True)
    own = [batch for k, batch in enumerate(_batches(run)) if k % world_size() == rank()]
    with _journal(run) as journal:
        done = _cut_to_whole_batches(journal, [len(batch) for batch in own] if going_on else [])
        if rank() == 0:
            for leftover in (path for folder in folders for path in folder.glob(TEMPORARY)):
                leftover.unlink()
        barrier()  # no journal holds anything of another run
        if rank() == 0:
            write_json(run.part / "run.json", run.identity)
        kept = sum(all_gather(sum(map(len, own[:done]))))  # and nobody goes on before what the run is has been written
        if kept:
            logger.info(f"resuming behind {counted(kept, 'picture')}")
        _fill(run, journal, own, done, prepare, work)
    barrier()


def _batches(run: Run) -> list[range]:
    return [range(i, min(i + run.batch_size, len(run.files))) for i in range(0, len(run.files), run.batch_size)]


def _may_resume(run: Run) -> bool:
    state = run.part / "run.json"
    if not state.exists():
        logger.info(f"nothing to resume at {run.part}; starting afresh")
        return False
    check_same(read_document(state), run)
    return True


def read_document(path: Path) -> dict:
    """What a JSON file says of a run; raises UserError where it is damaged."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: leave --resume out")
    return document


def check_same(before: dict, run: Run) -> None:
    """Raises UserError, naming what differs, where a run was started in another way."""
    now = json.loads(json.dumps(run.identity))
    unlike = [name for name in now if before.get(name) != now[name]]
    if unlike:
        told = [name for name in unlike if len(str(now[name])) < 32 and len(str(before.get(name))) < 32]
        said = ", ".join(f"{n} was {before.get(n)}, is {now[n]}" if n in told else f"another {n}" for n in unlike)
        raise UserError(
            f"--resume cannot go on with {run.part}: {said}; give what it was started with, or leave --resume out"
        )


@contextlib.contextmanager
def _journal(run: Run) -> Iterator[IO[bytes]]:
    """This process's journal, for nobody else to write: a worker may outlive the torchrun that was killed."""
    path = run.part / f"{rank()}.jsonl"
    with path.open("a+b") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing {path}: wait for it, or end it") from None
        yield file


def _cut_to_whole_batches(journal: IO[bytes], sizes: Iterable[int]) -> int:
    """Cut off what lies behind the last batch whose lines are all whole; returns the number of batches that stay."""
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


def _fill(run: Run, journal: IO[bytes], own: list[range], done: int, prepare: Callable, work: Callable) -> None:
    import torch
    from tqdm import tqdm

    threads = max(2, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    paths = (run.files[i][1] for batch in own[done:] for i in batch)
    reading = images.read_images(paths, prepare, threads, ahead=2 * run.batch_size)
    waiting: deque[list[Future[Row] | Row]] = deque()
    verb = run.verb if world_size() == 1 else f"{run.verb} (process 1 of {world_size()})"
    bar = tqdm(
        desc=verb, total=sum(map(len, own)), initial=sum(map(len, own[:done])), unit="picture",
        disable=hide_progress(),
    )  # fmt: skip

    def write() -> None:
        rows = [row.result() if isinstance(row, Future) else row for row in waiting.popleft()]
        # In one piece: what a kill cuts off is the end of the file, never the middle.
        journal.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        journal.flush()
        bar.update(len(rows))

    # A thread that finishes pictures works on small tensors: threads of its own would only get in the network's way.
    alone = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with bar, contextlib.closing(cast(Generator, reading)), alone as pool:
        for batch in own[done:]:
            found = list(islice(reading, len(batch)))
            named = list(zip(batch, found, strict=True))
            items = [Item(i, item.path, item.pixels) for i, item in named if isinstance(item, images.DecodedImage)]
            finished = iter(
                [pool.submit(_row, run, i, f) for (i, *_), f in zip(items, work(items) if items else [], strict=True)]
            )
            waiting.append([
                {**_head(run, i), "error": item.reason} if isinstance(item, images.UnreadableImage) else next(finished)
                for i, item in named
            ])  # fmt: skip
            if len(waiting) > BEHIND:
                write()
        while waiting:
            write()


def _head(run: Run, index: int) -> Row:
    name, path = run.files[index]
    return {"file": str(path), "true": name or None}


def _row(run: Run, index: int, finish: Callable[[], Row]) -> Row:
    return {**_head(run, index), **finish()}


def _cores() -> int:
    """Processors that this process may use, which in a container or under Slurm are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows(run: Run) -> Iterator[Row]:
    """All rows, in the order of the files; the journals must be complete."""
    with contextlib.ExitStack() as stack:
        journals = [stack.enter_context((run.part / f"{r}.jsonl").open(encoding="utf-8")) for r in range(world_size())]
        for k, batch in enumerate(_batches(run)):
            lines = list(islice(journals[k % len(journals)], len(batch)))
            if len(lines) < len(batch):
                raise RuntimeError(f"{run.part}/{k % len(journals)}.jsonl is not complete")
            yield from map(json.loads, lines)


def clear(run: Run) -> None:
    """Remove the journals; first what says that there is something to resume."""
    (run.part / "run.json").unlink(missing_ok=True)
    shutil.rmtree(run.part, ignore_errors=True)
