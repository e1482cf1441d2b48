"""List the files of a folder: linked folders too, but not what systems and crackcam itself leave there."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from crackcam.text import counted, normalized

logger = logging.getLogger(__name__)

# Of macOS, Windows, and network drives; compared without regard to case. Hidden names are left out too.
SYSTEM_NAMES = {
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}


def is_visible(name: str) -> bool:
    """Whether a file or folder is the user's: neither hidden nor left by the system."""
    return not name.startswith(".") and name.casefold() not in SYSTEM_NAMES


def existing(path: Path) -> Path:
    """The path, or the same in another Unicode form where only that exists: macOS decomposes accents."""
    forms = (path, *(Path(normalized(str(path), form)) for form in ("NFC", "NFD")))
    return next((form for form in forms if form.exists()), path)


def list_files(folder: Path) -> list[Path]:
    """All visible files below a folder, in natural order (2 before 10), without those that crackcam wrote.

    Linked folders are followed; each folder is read once. Broken links and inaccessible folders are included: reading
    them gives the reason.
    """
    found: list[Path] = []
    errors: list[OSError] = []
    pending, seen = [os.fspath(folder)], set[str]()
    while pending:
        for parent, folders, names in os.walk(pending.pop(0), onerror=errors.append):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                logger.warning("%s links to a folder that is read already: left out", parent)
                continue
            seen.add(real)
            folders[:] = sorted(filter(is_visible, folders))
            pending += [each for name in folders if os.path.islink(each := os.path.join(parent, name))]  # noqa: PTH114, PTH118
            found += [Path(parent, name) for name in filter(is_visible, names)]
    found = without_outputs([path for path in found if path.is_file() or not path.exists()])
    found += [Path(error.filename) for error in errors]
    return sorted(found, key=lambda path: _natural_key(path.relative_to(folder).as_posix()))


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares digits as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


# -- what crackcam wrote ---------------------------------------------------------------------------------------------

DOCUMENT = re.compile(rb'\{\s*"schema": \d+,\s*"command": ')  # start of the .json beside a figure or table
GENERATOR = b'<meta name="generator" content="crackcam">'  # in a report
BESIDE = (
    ".png",
    ".csv",
    ".jsonl",
    ".json",
    "_found.csv",
    "_metrics.csv",
    "_metrics_images.csv",
    "_coco.json",
    "_findings.csv",
    "_verdicts.csv",
    ".geojson",
    "_crs.geojson",
)  # of one result, after its stem
SHARD, IN_SHARD = re.compile(r"\d{5}"), re.compile(r"\d{7}_.*\.(jpg|npy|png|geojson)", re.DOTALL)  # of --all
MASK_IMAGES = "_masks"  # end of the folder of masks of --all


def without_outputs(paths: list[Path]) -> list[Path]:
    """The files that are not results of inference.py or xai.py; how many are left out is logged."""
    stems: dict[Path, set[str]] = {}

    def is_output(path: Path) -> bool:
        beside_shards = path.parents[min(2, len(path.parents) - 1)]
        for folder in {path.parent, beside_shards} - stems.keys():
            stems[folder] = _result_stems(folder)
        if any(path.name == stem + end for stem in stems[path.parent] for end in BESIDE):
            return True
        if SHARD.fullmatch(path.parent.name) and IN_SHARD.fullmatch(path.name):
            of_run = path.parent.parent.name.removesuffix(MASK_IMAGES) in stems[beside_shards]
            return path.suffix in (".npy", ".geojson") or of_run
        if path.parent.suffix == ".part":
            return (path.parent / "run.json").exists()
        return path.suffix.lower() == ".html" and GENERATOR in _head(path)

    kept = [path for path in paths if not is_output(path)]
    if len(kept) < len(paths):
        logger.info("left out %s that crackcam wrote", counted(len(paths) - len(kept), "file"))
    return kept


def _result_stems(folder: Path) -> set[str]:
    """Names, without suffix, of the results in a folder, complete or interrupted."""
    stems = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix == ".json" and DOCUMENT.match(_head(path)):
            stems.add(path.stem)
        elif path.name.endswith((".csv.part", ".jsonl.part", ".png.part")) and (path / "run.json").exists():
            stems.add(Path(path.stem).stem)
    return stems


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2048)
    except OSError:  # reading it as an image will give the reason
        return b""
