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
    """One line about the heatmaps of a figure; where methods differ, those that are not like most are named.

    Args:
        methods: the layers of each.
        target: the class that is explained.

    Examples:
        >>> from crackcam.render.captions import describe
        >>> describe({"gradcam": ["layer4"], "eigencam": ["layer4"]}, "Positive")
        'evidence for Positive, at layer4; eigencam: independent of the class, at layer4'
    """
    phrases = {method: _phrase(method, layers, target) for method, layers in methods.items()}
    [(most, _)] = Counter(phrases.values()).most_common(1)
    alike: dict[str, list[str]] = {}
    for method, phrase in phrases.items():
        alike.setdefault(phrase, []).append(method)
    others = [f"{', '.join(named)}: {phrase}" for phrase, named in alike.items() if phrase != most]
    return "; ".join([most, *others])


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


def _phrase(method: str, layers: Sequence[str], target: str) -> str:
    where = "all stages" if method == EVIDENCE else ", ".join(layers)
    return subject(method, target) + (f", at {where}" if where else "")
