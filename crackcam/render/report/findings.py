"""Write the findings page: what the photographs of a site show, worst first, for people who were not there.

Cards are written one after the other, so that memory does not grow with the number of photographs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from crackcam.data.verdicts import REJECT
from crackcam.files import write_atomically
from crackcam.render.handover.geojson import length_of
from crackcam.render.report.finding_cards import (
    DETAIL_SIDE,
    DETAILS,
    LISTED,
    PHOTO_SIDE,
    finding_cards,
    other_cards,
)
from crackcam.render.report.findings_content import (
    class_table,
    facts,
    key_figures,
    technical_facts,
    title,
    unreadable_table,
)
from crackcam.render.report.flight import Flight, Photograph, Row, WideRegion
from crackcam.render.report.quantities import Size, length_size, width_size
from crackcam.render.report.site_map import SiteMap, draw_map
from crackcam.sizes import class_names
from crackcam.text import counted

logger = logging.getLogger(__name__)

Link = tuple[str, str]  # name of a page, "" for the first one, and an anchor in it

PAGE, OTHERS_PAGE = 200, 1000  # photographs of a page: with findings, and without


@dataclass(frozen=True)
class Part:
    """What one page shows: photographs with findings, their first number, and photographs without."""

    findings: list[Photograph]
    first: int
    others: list[Photograph]


def write_findings(path: Path, document: dict, rows: Iterable[Row]) -> None:
    """Write the findings page, atomically: ``path``, and pages beside it where there are many photographs.

    Args:
        path: ends in .html.
        document: of the run. ``title``, ``width-limits`` in mm and ``verdicts`` of an earlier run are used where given;
            verdicts are dictionaries with the columns of the file that the page's button makes, and go into it again.
        rows: of the photographs, as ``xai.py --all --style mask`` makes them; read once. Rows with an ``error`` are
            listed as unreadable. Rejected regions are not among theirs, see :mod:`crackcam.batch.handover`.

    Raises:
        UserError: a photograph that has to be read again cannot be read any more.
    """
    with contextlib.closing(Flight.read(rows)) as flight:
        parts = divide(flight)
        names = [path.name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, len(parts) + 1))]
        shared = _shared(document, flight, datetime.now())
        links = _links(parts, names)
        written = 0
        for number in reversed(range(len(parts))):  # the first one last: what it links to is there
            page = path.with_name(names[number])
            values = {**shared, **_values(flight, parts[number]), "names": names, "page": number}
            if number == 0:
                values |= _overview(document, flight, links)
            if number == len(parts) - 1:
                values["unreadable"] = unreadable_table(flight)
            write_atomically(page, functools.partial(_stream, values=values))
            written += page.stat().st_size
    pages = f"{counted(len(parts), 'page')}, " if len(parts) > 1 else ""
    logger.info(f"report: {path}, {pages}{counted(len(flight.all), 'photograph')}, {written / 1e6:.1f} MB")


def divide(flight: Flight) -> list[Part]:
    """The photographs of each page."""
    findings, others = flight.findings, flight.others
    parts = [Part(findings[i : i + PAGE], i + 1, []) for i in range(0, len(findings), PAGE)] or [Part([], 1, [])]
    parts[-1].others.extend(others[:OTHERS_PAGE])
    rest = range(OTHERS_PAGE, len(others), OTHERS_PAGE)
    return parts + [Part([], len(findings) + 1, others[i : i + OTHERS_PAGE]) for i in rest]


def _links(parts: list[Part], names: list[str]) -> dict[str, Link]:
    """Where the card of each photograph is, by name; of photographs without findings too."""
    found = {}
    other = 0
    for page, part in zip(["", *names[1:]], parts, strict=True):
        for number, photograph in enumerate(part.findings, part.first):
            found[photograph.name] = page, f"image-{number}"
        for photograph in part.others:
            other += 1
            found[photograph.name] = page, f"other-{other}"
    return found


def _shared(document: dict, flight: Flight, now: datetime) -> dict[str, Any]:
    """What all pages need."""
    from crackcam.render.report.templates import assets

    limits = document.get("width-limits") or []
    return {
        **assets(["report.css", "findings.css"], ["base.js", "findings.js"]),
        "title": title(document, flight),
        "date": f"{now.day} {now:%B %Y}",
        "run": run_id(flight),
        "before": [each for each in document.get("verdicts") or [] if each["verdict"] == REJECT],
        "classes": class_names(limits) if limits else [],
        "unit": "mm" if flight.metric else "px",
        "regions": flight.regions,
        "targets": sorted(flight.targets),
        "sides": (PHOTO_SIDE, DETAIL_SIDE),
        "most": {"details": DETAILS, "listed": LISTED},
    }


def run_id(flight: Flight) -> str:
    """By which a browser finds its verdicts again: the same for all runs with the same photographs."""
    names = sorted(photograph.name for photograph in flight.all)
    return hashlib.blake2b("\n".join(names).encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def _overview(document: dict, flight: Flight, links: dict[str, Link]) -> dict[str, Any]:
    """What the first page begins with."""
    limits = document.get("width-limits") or []
    drawn = draw_map(flight.all, limits, flight.metric)
    return {
        "key_figures": key_figures(document, flight),
        "facts": facts(document, flight),
        "technical": technical_facts(document, flight),
        "classified": class_table(flight, limits),
        "map": drawn,
        "places": _places(flight, drawn, links) if drawn else [],
        "widest": [_wide_line(each, links) for each in flight.widest],
    }


def _places(flight: Flight, drawn: SiteMap, links: dict[str, Link]) -> list[tuple[Photograph, Link]]:
    """Of each dot of a map: its photograph, and where its card is."""
    photographs = flight.all
    return [(photographs[dot.photograph], links[photographs[dot.photograph].name]) for dot in drawn.dots]


def _wide_line(found: WideRegion, links: dict[str, Link]) -> tuple[WideRegion, Link, Size, Size]:
    """A line in the table of the widest regions: where its card is, its width and its length."""
    region, scale = found.region, found.mm_per_pixel
    length = length_size(length_of(region), (region.get("mm") or {}).get("length"))
    return found, links[found.photograph], width_size(region, "p95", scale), length


def _values(flight: Flight, part: Part) -> dict[str, Any]:
    """What a page shows: generators, which make a card when it is written."""
    first_other = flight.others.index(part.others[0]) + 1 if part.others else 1
    return {
        "key_figures": [],
        "facts": [],
        "classified": None,
        "unreadable": None,
        "map": None,
        "places": [],
        "widest": [],
        "findings": len(part.findings),
        "first": part.first,
        "others": len(part.others),
        "first_other": first_other,
        "cards": finding_cards(flight, part.findings),
        "other_cards": other_cards(part.others),
    }


def _stream(path: Path, values: dict[str, Any]) -> None:
    from crackcam.render.report.templates import environment  # slow to import, and only of use here

    template = environment().get_template("findings.html")
    with path.open("wb") as file:
        for piece in template.generate(**values):
            file.write(piece.encode("utf-8", "backslashreplace"))  # names of files need not be text
