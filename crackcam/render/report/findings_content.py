"""The top of a findings page: its title, the key figures, how the run was made, tables."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from crackcam.data.capture import Capture
from crackcam.files import common_folder
from crackcam.models.checkpoint import BUNDLED
from crackcam.render.figures.layout import model_label
from crackcam.render.report.flight import Flight, Photograph
from crackcam.render.report.quantities import times_text
from crackcam.render.report.tables import Table
from crackcam.sizes import NARROWEST, class_names, error_text, length_text, metric_text, too_fine
from crackcam.text import counted, percent


def title(document: dict, flight: Flight) -> str:
    """That of ``--title``; else "Findings" and the name of the folder of the photographs."""
    if document.get("title"):
        return document["title"]
    folder = common_folder(photograph.file for photograph in flight.all)
    return f"Findings: {folder.name}" if folder and folder.name else "Findings"


def key_figures(document: dict, flight: Flight) -> list[tuple[str, str, str]]:
    """The few numbers to see first: name, value, remark."""
    photographs, regions = flight.all, sum(photograph.regions for photograph in flight.findings)
    found, rejected = len(flight.findings), document.get("findings", {}).get("rejected", 0)
    lost = f"{len(flight.unreadable):,} more not readable" if flight.unreadable else "all readable"
    counts = [
        "one crack may be several" if regions else "",
        f"{flight.narrow:,} too narrow to measure" if flight.narrow else "",
        f"{flight.unmeasured:,} without a measured width" if flight.unmeasured else "",
        f"{rejected:,} more rejected in review" if rejected else "",
    ]
    figures = [
        ("photographs", f"{len(photographs):,}", lost),
        ("with findings", f"{found:,}", percent(found / len(photographs)) if photographs else ""),
        ("regions", f"{regions:,}", ", ".join(filter(None, counts))),
    ]
    worst = flight.findings[0] if flight.findings else None
    if worst and worst.widest is not None:
        mm, pixels = worst.width
        width = metric_text(mm) if mm is not None else length_text(pixels or 0)
        figures.append(("widest region", width, f"95th percentile, region {worst.widest} of {worst.name}"))
    if regions:
        figures.append(("length of the regions", *_total_length(flight)))
    return figures


def _total_length(flight: Flight) -> tuple[str, str]:
    known = [mm for photograph in flight.findings if (mm := photograph.length[0]) is not None]
    pixels = f"{sum(photograph.length[1] for photograph in flight.findings):,.0f} px"
    if not known:
        return pixels, "along their centre lines"
    rest = len(flight.findings) - len(known)
    remark = f"without {rest:,} photographs of unknown scale" if rest else f"along their centre lines, {pixels}"
    return metric_text(sum(known)), remark


def facts(document: dict, flight: Flight) -> list[tuple[str, str]]:
    """What a reader of the sizes needs: name and value."""
    times = [time for photograph in flight.all if (time := photograph.capture.get("time"))]
    narrowest = narrowest_width(flight)
    found = [
        ("taken", times_text(times)),
        ("scale", _scale(document, flight)),
        ("narrowest width", _narrowest(document, flight)),
        ("error of widths", error_text(narrowest and narrowest / NARROWEST) if flight.findings else ""),
    ]
    return [(name, value) for name, value in found if value]


def technical_facts(document: dict, flight: Flight) -> list[tuple[str, str]]:
    """How the run was made: name and value; without the folders of the machine that made it."""
    checkpoint, source = document["checkpoint"], document["checkpoint"]["file"]
    if checkpoint["sha256"] and Path(source) != BUNDLED:
        source = Path(source).name
    model = model_label(checkpoint["arch"], source)
    digest = checkpoint["sha256"] and f"SHA-256 {checkpoint['sha256'][:16]}…"
    found = [
        ("model", ", ".join(filter(None, [model, digest]))),
        ("method", document.get("method") or ""),
        ("threshold", _range(flight.thresholds)),
        ("command", without_folders(document["command"])),
        ("device", f"{document['device']}, {document['precision']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
    ]
    return [(name, value) for name, value in found if value]


def _scale(document: dict, flight: Flight) -> str:
    known = [scale for scale in flight.scales if scale is not None]
    if not known:
        return "not known: sizes are in pixels of the photographs"
    rest = ", of some photographs not known" if None in flight.scales else ""
    distance, sensor = document.get("distance"), document.get("sensor-width")
    if not distance or not sensor:
        return f"{_range(known)} mm per pixel{rest}"
    lenses = (Capture(focal_length_mm=real, focal_length_35mm=full) for real, full in flight.focal_lengths)
    used = [length for lens in lenses if (length := lens.focal_length(sensor))]
    lens = f", focal length {_range(used)} mm" if used else ""
    return (
        f"{_range(known)} mm per pixel{rest} (camera {distance:g} m from the surface, sensor {sensor:g} mm wide{lens})"
    )


def _narrowest(document: dict, flight: Flight) -> str:
    """The narrowest crack that can be measured everywhere, and the limits of classes that are below it."""
    if (narrowest := narrowest_width(flight)) is None:
        return ""
    limits, distance = document.get("width-limits") or [], document.get("distance")
    found = f"{metric_text(narrowest)} ({NARROWEST:g} px)"
    return "; ".join(filter(None, [found, too_fine(limits, narrowest / NARROWEST, distance)]))


def narrowest_width(flight: Flight) -> float | None:
    """The narrowest crack in mm that can be measured in every photograph whose scale is known; None: in none."""
    known = [scale for scale in flight.scales if scale is not None]
    return NARROWEST * max(known) if known else None


def _range(values: Iterable[float]) -> str:
    found = sorted(set(values))
    if not found:
        return ""
    return f"{found[0]:.3g}" if len(found) == 1 else f"{found[0]:.3g} to {found[-1]:.3g}"


def without_folders(command: str) -> str:
    """A command with the last part of each path only.

    Examples:
        >>> from crackcam.render.report.findings_content import without_folders
        >>> without_folders("python xai.py --image /home/ann/flight --report=out/page.html")
        'python xai.py --image flight --report=page.html'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quote in the name of a file
        words = command.split()
    return shlex.join(_last_part(word) for word in words)


def _last_part(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    parts = [PureWindowsPath(PurePosixPath(part).name).name or part for part in value.split(",")]
    return f"{flag}{equals}{','.join(parts)}"


def class_table(flight: Flight, limits: Sequence[float]) -> Table | None:
    """Regions by width class; None without limits or findings."""
    if not limits or not flight.classes:
        return None
    narrowest, rows = narrowest_width(flight) or 0.0, []
    for name, (lower, upper) in zip(class_names(limits), pairwise([0, *limits, math.inf]), strict=True):
        count, length = flight.classes.get(name, (0, 0.0))
        found = f"{count:,}" if count or upper > narrowest else f"not measurable below {metric_text(narrowest)}"
        found += f", measurable from {metric_text(narrowest)}" if 0 < lower < narrowest < upper else ""
        rows.append([name, found, metric_text(length) if length else "-"])
    count, length = flight.classes.get(None, (0, 0.0))
    rows.append(["not classified", f"{count:,}", metric_text(length) if length else "-"])
    return Table("Regions by width", ["95th percentile", "regions", "length"], rows)


def unreadable_table(flight: Flight) -> Table | None:
    """The files that could not be read; None where all could."""
    if not flight.unreadable:
        return None
    return Table("Files that could not be read", ["file", "reason"], [list(each) for each in flight.unreadable])


def summary(photograph: Photograph) -> str:
    """'3 regions, widest 0.84 mm': a photograph in a few words."""
    (mm, pixels), number = photograph.width, photograph.regions
    widest = metric_text(mm) if mm is not None else length_text(pixels) if pixels is not None else ""
    found = counted(number, "region") if number else "no findings"
    return ", ".join(filter(None, [found, widest and f"widest {widest}"]))
