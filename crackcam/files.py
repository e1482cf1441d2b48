"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
import hashlib

from crackcam.errors import UserError


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- files -----------------------------------------------------------------------------------------------------


def check_writable(*paths: Path | None) -> None:
    """Raises UserError where a file cannot be written later on; creates its folder. None: nothing to write."""
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
    """Calls ``write`` with a temporary name beside ``path``, then renames: a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{temporary_stem(path)}{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    except Exception as error:
        if cause := _system_error(error):
            raise OSError(cause, os.strerror(cause), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _system_error(error: Exception) -> int | None:
    """The number of what the system refused, a full disk say, out of what libraries make of it."""
    for known in (error, error.__context__):  # torch raises its own while it handles the system's
        if isinstance(known, OSError):
            return known.errno
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
    return int(told[1]) if told else None


def temporary_stem(path: Path) -> str:
    """What the temporary names of a file begin with; no name gets longer than file systems take by it."""
    return f".{path.stem[:50]}."


def write_json(path: Path, document: dict | list) -> None:
    """A readable JSON file."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(document, indent=2) + "\n", "utf-8"))


def write_csv(path: Path, rows: list[dict]) -> str:
    """Rows with the same keys, which become the header; returns the file's name."""

    def write(temporary: Path) -> None:
        # names of files need not be text
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
    return str(path)
