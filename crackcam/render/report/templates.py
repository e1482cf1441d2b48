"""The templates in crackcam/render/templates, and the style sheet and script of a page.

All text is escaped by jinja2; a Content-Security-Policy lets a page run the one script and the one style sheet that it
came with, known by their hashes, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crackcam.render import captions
from crackcam.render.report.findings_content import summary
from crackcam.render.report.numbers import label, number_text
from crackcam.render.report.quantities import decision_text, place_text, time_text
from crackcam.text import confidence_text, percent

TEMPLATES = Path(__file__).parents[1] / "templates"


def environment() -> Environment:
    """The templates, and the filters that write their numbers."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {}  # in the order of the run, not of the alphabet
    templates.filters |= {"percent": percent, "confidence": confidence_text, "number": number_text, "label": label}
    templates.filters |= {"note": captions.note, "time": time_text, "place": place_text, "summary": summary}
    templates.filters["decision"] = decision_text
    return templates


def assets(styles: Sequence[str], scripts: Sequence[str]) -> dict[str, Any]:
    """Style sheet and script of a page, each joined from files, and their hashes for the policy."""
    style, script = ("\n".join((TEMPLATES / name).read_text("utf-8") for name in names) for names in (styles, scripts))
    markup = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - ours
    return {**markup, "style_hash": _hash(style), "script_hash": _hash(script)}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
