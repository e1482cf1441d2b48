"""What heatmaps show, in words: of which class, if any, and at which layers, if any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from crackcam.methods import EVIDENCE, NAMED

CLASS_FREE = "independent of the class"
FREE = {name for name, method in NAMED.items() if not method.of_class}


def subject(method: str, target: str) -> str:
    """'evidence for Positive'; of a method that asks for no class, that.

    Examples:
        >>> from crackcam.render.captions import subject
        >>> subject("gradcam", "Positive"), subject("eigencam", "Positive")
        ('evidence for Positive', 'independent of the class')
    """
    return CLASS_FREE if method in FREE else f"evidence for {target}"


def describe(methods: Mapping[str, Sequence[str]], target: str) -> str:
    """One line about the heatmaps of a figure; methods that are not like most are named.

    Args:
        methods: the layers of each.
        target: the class that is explained.

    Examples:
        >>> from crackcam.render.captions import describe
        >>> describe({"gradcam": ["layer4"], "eigencam": ["layer4"], "fullgrad": []}, "Positive")
        'evidence for Positive, at layer4; eigencam: independent of the class; fullgrad: no target layer'
    """
    subjects = {method: subject(method, target) for method in methods}
    places = {method: _place(method, layers) for method, layers in methods.items()}
    main = next((text for text in subjects.values() if text != CLASS_FREE), CLASS_FREE)
    used = Counter(place for place in places.values() if place)
    place = max(used, key=lambda name: used[name], default="")
    found = [f"{main}, {place}" if place else main]
    found += _exceptions(subjects, main)
    found += _exceptions({method: text or "no target layer" for method, text in places.items()}, place) if place else []
    return "; ".join(found)


def _exceptions(phrases: Mapping[str, str], usual: str) -> list[str]:
    named: dict[str, list[str]] = {}
    for method, phrase in phrases.items():
        named.setdefault(phrase, []).append(method)
    return [f"{', '.join(methods)}: {phrase}" for phrase, methods in named.items() if phrase != usual]


def note(method: str, target: str, found: bool) -> str:
    """The line below one image.

    Args:
        method: of the heatmap.
        target: the class that is explained.
        found: whether the heatmap is not zero everywhere.
    """
    if method in FREE:
        return CLASS_FREE if found else "zero everywhere"
    return f"explains: {target}" if found else f"no evidence for {target}"


def _place(method: str, layers: Sequence[str]) -> str:
    where = "all stages" if method == EVIDENCE else ", ".join(layers)
    return f"at {where}" if where else ""
