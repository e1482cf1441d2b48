"""Atomic writes of files, JSON and CSV; hashes; checks that a file can be written."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from crackcam.errors import UserError


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def exists(name: str | Path) -> bool:
    """Whether there is such a file or folder; False also for names that no file system takes."""
    return os.path.exists(name)  # noqa: PTH110 - Path.exists raises for names that are too long


def common_folder(files: Iterable[str | Path]) -> Path | None:
    """The longest path that all files lie below; None where there is none: no files, or several drives of Windows.

    Examples:
        >>> from crackcam.files import common_folder, name_below
        >>> folder = common_folder(["flight/north/1.jpg", "flight/south/1.jpg"])
        >>> name_below(folder, "flight/south/1.jpg")
        'south/1.jpg'
    """
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}  # noqa: PTH100, PTH120 - no link is resolved
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return None


def name_below(folder: Path | None, file: str | Path) -> str:
    """A file's path below a folder, with slashes: what results that leave the machine call it; else its own name."""
    path = Path(os.path.abspath(file))  # noqa: PTH100 - no link is resolved
    return path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else path.name


def check_writable(*paths: Path | None) -> None:
    """Raise UserError where a file cannot be written later on; creates its folder. None: nothing to write."""
    for path in filter(None, paths):
        try:
            if path.is_dir():
                raise IsADirectoryError(0, "is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise UserError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all, with the permissions of an ordinary new file.

    Args:
        path: the file; its folder is created.
        write: called with a temporary path in the same folder, which is renamed afterwards.

    Raises:
        OSError: with the system's reason and ``path``, also where a library reports the reason in its own way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{temporary_stem(path)}{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # as the umask has it
        write(temporary)
        if temporary.stat().st_mode & 0o777 != mode:  # safetensors: readable by the owner alone
            temporary.chmod(mode)
        temporary.replace(path)
    except Exception as error:
        if number := _system_error(error):
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _system_error(error: Exception) -> int | None:
    """The errno behind what a library raised, a full disk say; None where there is none."""
    for known in (error, error.__context__):  # torch raises its own error while it handles the system's
        if isinstance(known, OSError):
            return known.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has the number in its text alone
    return int(found[1]) if found else None


def remove_temporary_files(path: Path, suffixes: Iterable[str], before: float) -> None:
    """Remove what kills left of :func:`write_atomically`.

    Args:
        path: the file; its suffix does not count.
        suffixes: of the files that were written, without the dot.
        before: only what is older than this, in seconds since the epoch: another run may be writing now.
    """
    ours = re.compile(rf"{re.escape(temporary_stem(path))}\d+\.({'|'.join(suffixes)})")
    for file in path.parent.iterdir():
        with suppress(FileNotFoundError):
            if ours.fullmatch(file.name) and file.stat().st_mtime < before:
                file.unlink()


def temporary_stem(path: Path) -> str:
    """Start of a file's temporary names; cut, because file systems limit the length of names."""
    return f".{path.stem[:50]}."


def write_json(path: Path, document: dict | list) -> None:
    """Write an indented JSON file."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(document, indent=2) + "\n", "utf-8"))


def write_json_stream(path: Path, head: dict, lists: Mapping[str, Iterable[dict]]) -> None:
    """Write a JSON object whose lists are longer than memory: one line for each item.

    Args:
        path: the file.
        head: the keys before the lists.
        lists: by key; each is read once, in order.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()))
            for place, (key, items) in enumerate(lists.items()):
                file.write(f"{',' * bool(place)}{json.dumps(key)}: [")
                for number, item in enumerate(items):
                    file.write(f"{',' * bool(number)}\n{json.dumps(item, allow_nan=False)}")
                file.write("]\n")
            file.write("}\n")

    write_atomically(path, write)


def write_csv(path: Path, rows: list[dict]) -> str:
    """Write rows with the same keys, which become the header; returns the path as text."""
    header = list(rows[0])
    cells = [header, *([row.get(name) for name in header] for row in rows)]
    write_atomically(path, lambda temporary: write_cells(temporary, cells))
    return str(path)


def write_cells(path: Path, rows: Iterable[Sequence]) -> None:
    """Write rows of cells as CSV in UTF-8, with a byte order mark where it is not plain ASCII.

    Excel takes a file without that mark for one in the encoding of the machine's language.
    """
    with tempfile.TemporaryFile(dir=path.parent) as body:
        # file names need not be valid text
        text = io.TextIOWrapper(body, "utf-8", "surrogateescape", newline="")
        csv.writer(text).writerows(rows)
        text.detach()  # writes what it holds back
        body.seek(0)
        ascii_only = all(line.isascii() for line in body)
        body.seek(0)
        with path.open("wb") as file:
            file.write(b"" if ascii_only else codecs.BOM_UTF8)
            shutil.copyfileobj(body, file)
