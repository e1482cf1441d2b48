"""Arrays with a row for each image, in memory while they are small, else in a temporary file that is read row by row.

A process then holds the rows that it works on, however many images there are, and all processes of a machine read one
file, which the page cache of the system keeps in memory as far as there is room. The file is in ``$TMPDIR`` and has no
name: the system removes it when the last process that reads it ends, in whatever way, and no other run can meet it.

Outside Linux, large arrays are memory-mapped, and each process has its own.
"""

from __future__ import annotations

import operator
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch

from crackcam import distributed
from crackcam.errors import UserError

IN_MEMORY = 64 * 2**20  # bytes; a larger array goes into a file, which the page cache reads as fast as it is used
LONGEST_READ = 2**30  # bytes; Linux reads no more than 2 GB at once

T = TypeVar("T")
Index = int | slice | Sequence[int] | torch.Tensor


class StoredFile(NamedTuple):
    """Where the other processes of the machine find the file of a :class:`StoredArray`."""

    path: str
    device_and_inode: tuple[int, int]
    shape: tuple[int, ...]
    dtype: torch.dtype
    first: int


class StoredArray:
    """A tensor in a file. Rows are read when they are asked for, and written by assignment, as those of a tensor.

    Args:
        file: its content, unbuffered.
        shape: of the whole, rows first.
        dtype: of the elements.
        first: row of the file that is row 0 here.
    """

    def __init__(self, file: BinaryIO, shape: Sequence[int], dtype: torch.dtype, first: int = 0) -> None:
        self._file, self.shape, self.dtype, self._first = file, torch.Size(shape), dtype, first
        self._row = self.shape[1:].numel() * dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> torch.Tensor:
        """Read one row, a slice of rows, or the rows of a list of indices in its order."""
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            return self._read(rows.start, len(rows)) if rows.step == 1 else self[list(rows)]
        if isinstance(index, torch.Tensor) and index.ndim:
            index = index.tolist()
        if isinstance(index, Sequence):
            found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
            for place, row in enumerate(index):
                found[place] = self[row]
            return found
        return self._read(self._checked(index), 1)[0]

    def __setitem__(self, index: int | slice, values: torch.Tensor) -> None:
        """Write one row, or a slice of rows."""
        rows = index if isinstance(index, slice) else slice(self._checked(index), self._checked(index) + 1)
        start, stop, step = rows.indices(len(self))
        content = values.to(self.dtype).expand(max(0, stop - start), *self.shape[1:]).contiguous()
        if step != 1:
            raise IndexError("only neighbouring rows can be written")
        left, offset = _bytes_of(content), (self._first + start) * self._row
        while left:
            written = os.pwrite(self._file.fileno(), left[:LONGEST_READ], offset)
            left, offset = left[written:], offset + written

    def view(self, rows: slice) -> StoredArray:
        """Neighbouring rows, which are not read yet."""
        start, stop, _ = rows.indices(len(self))
        return StoredArray(self._file, (max(0, stop - start), *self.shape[1:]), self.dtype, self._first + start)

    def split(self, count: int) -> Iterator[torch.Tensor]:
        """All rows, ``count`` at a time."""
        return (self[start : start + count] for start in range(0, len(self), count))

    def handle(self) -> StoredFile:
        """For :meth:`open` in other processes of the machine, as long as this process has the array."""
        at = os.fstat(self._file.fileno())
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return StoredFile(path, (at.st_dev, at.st_ino), tuple(self.shape), self.dtype, self._first)

    @classmethod
    def open(cls, stored: StoredFile) -> StoredArray:
        """The array of another process.

        Raises:
            UserError: this process cannot see the files of the other one.
        """
        try:
            file = Path(stored.path).open("r+b", buffering=0)  # noqa: SIM115 - lives as long as the array
            at = os.fstat(file.fileno())
        except OSError:
            at = None
        if at is None or (at.st_dev, at.st_ino) != stored.device_and_inode:
            raise UserError(
                "the processes of a machine share one file of decoded images, but one cannot open that of another: "
                "start them as one user, in one container"
            )
        return cls(file, stored.shape, stored.dtype, stored.first)

    def _checked(self, index: int | torch.Tensor) -> int:
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return row % len(self)

    def _read(self, start: int, count: int) -> torch.Tensor:
        found = torch.empty((count, *self.shape[1:]), dtype=self.dtype)
        left, offset = _bytes_of(found), (self._first + start) * self._row
        while left:
            number = os.preadv(self._file.fileno(), [left[:LONGEST_READ]], offset)
            if not number:
                raise OSError("a temporary file of images has become shorter")
            left, offset = left[number:], offset + number
        return found


Rows = torch.Tensor | StoredArray


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


def view_of(rows: Rows, part: slice) -> Rows:
    """Neighbouring rows, without a copy."""
    return rows.view(part) if isinstance(rows, StoredArray) else rows[part]


def allocate(shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> Rows:
    """A new array: in memory where it is small and this process is alone, else in a file.

    Raises:
        UserError: the disk has not enough room.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    shared = sys.platform == "linux" and distributed.local_world_size() > 1
    return torch.empty(*shape, dtype=dtype) if size <= IN_MEMORY and not shared else in_file(shape, dtype)


def in_file(shape: Sequence[int], dtype: torch.dtype) -> Rows:
    """A new array in a file, of whatever size; raises UserError as :func:`allocate`."""
    size = torch.Size(shape).numel() * dtype.itemsize
    file = _temporary_file(size)
    if sys.platform == "linux":
        return StoredArray(file, shape, dtype)
    return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,))).view(dtype).view(*shape)


def of_machine(make: Callable[[], tuple[Rows, T]]) -> tuple[Rows, T]:
    """Rows, and what belongs to them, that the first process of a machine makes: all its processes read one file.

    Raises:
        UserError: ``make`` raised it; or see :meth:`StoredArray.open`.
    """
    if distributed.world_size() == 1:
        return make()
    made: list[Rows] = []

    def share() -> tuple[StoredFile | torch.Tensor, T]:
        rows, others = make()
        made.append(rows)
        return rows.handle() if isinstance(rows, StoredArray) else rows, others

    found, others = distributed.of_machine(share)
    if made:
        return made[0], others
    return found if isinstance(found, torch.Tensor) else StoredArray.open(found), others


def _temporary_file(size: int) -> BinaryIO:
    """A file without a name whose room is reserved: a disk that fills up later would be noticed too late."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the array
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        file.close()
        raise UserError(
            f"{tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of decoded images "
            f"({(error.strerror or str(error)).lower()}): set TMPDIR to a folder on a larger disk"
        ) from None
    return file
