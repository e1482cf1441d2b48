"""The methods by the names that ``--method`` takes: the one place that lists them.

The choices of ``xai.py``, the table in the documentation and the parameters of the tests come from here. It imports no
torch: classes are named, and looked up in ``pytorch_grad_cam`` when one is used.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from crackcam.text import match_name, spelled_alike, split_list


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        class_name: the class in ``pytorch_grad_cam``; empty for :data:`EVIDENCE`.
        description: what the heatmap shows.
        forwards: cost of one image in forward passes, where a backward pass counts as two; None: one for each channel
            of the target layer.
        gradients: whether the model is differentiated.
        difference: why its heatmaps differ from those of the package grad-cam; empty where they do not, None where the
            package has no such method.
        cost: ``forwards`` in words, where the number alone would mislead.
        multi_layer: by default it reads a layer of each of the last three grid sizes, not the last layer alone.
        signed_image: it makes signed RGB images rather than heatmaps.
        extensive: its values split the score among places: with twice the places, each gets half.
        normalized: its heatmaps are stretched to [0, 1] on the way, so that tiles cannot be put side by side.
        uses_layers: it reads target layers; otherwise the pixels, or all layers.
        of_class: it explains a class; otherwise its heatmap is the same for all of them.
    """

    class_name: str
    description: str
    forwards: int | None
    gradients: bool
    difference: str | None = ""
    cost: str = ""
    multi_layer: bool = False
    signed_image: bool = False
    extensive: bool = False
    normalized: bool = False
    uses_layers: bool = True
    of_class: bool = True

    @property
    def cost_text(self) -> str:
        """The cost, for a table."""
        return self.cost or ("C" if self.forwards is None else str(self.forwards))

    @property
    def quick(self) -> bool:
        """Whether ``--method all`` draws it: a heatmap that costs at most ten forward passes."""
        return self.forwards is not None and self.forwards <= 10 and not self.signed_image


SIGN = "sign of the component: towards the sum of the channels, not LAPACK's"

METHODS = {
    "gradcam": Method("GradCAM", "channels weighted by their mean gradient", 1, True, extensive=True),
    "scorecam": Method("ScoreCAM", "channels weighted by the score of the image masked by them", None, False),
    "gradcam++": Method(
        "GradCAMPlusPlus",
        "channels weighted by their positive gradients at each position",
        1,
        True,
        "no epsilon beside the squared gradients",
    ),
    "ablationcam": Method(
        "AblationCAM",
        "channels weighted by the score lost without them",
        2,
        False,
        "divides by the size of the score, not by the signed score",
        cost="2 at a late layer",
    ),
    "xgradcam": Method("XGradCAM", "channels weighted by gradients where they are active", 1, True, extensive=True),
    "eigencam": Method(
        "EigenCAM", "first principal component of the activations; of no class", 1, False, SIGN, of_class=False
    ),
    "eigengradcam": Method(
        "EigenGradCAM", "first principal component of gradients times activations", 1, True, SIGN, extensive=True
    ),
    "layercam": Method("LayerCAM", "positive gradients times activations at each position", 1, True, extensive=True),
    "fullgrad": Method(
        "FullGrad",
        "gradients of the input and of every bias",
        3,
        True,
        "stretches all channels of an image together, as the authors do",
        normalized=True,
        uses_layers=False,
    ),
    "hirescam": Method("HiResCAM", "gradients times activations at each position", 1, True, extensive=True),
    "gradcamelementwise": Method(
        "GradCAMElementWise", "positive products of gradients and activations", 1, True, extensive=True
    ),
    "kpcacam": Method(
        "KPCA_CAM", "first kernel principal component of the activations; of no class", 1, False, SIGN, of_class=False
    ),
    "segeigencam": Method(
        "SegEigenCAM",
        "first principal component of absolute gradients times activations",
        1,
        True,
        extensive=True,
    ),
    "fem": Method(
        "FEM",
        "positions where channels are unusually active; of no class",
        1,
        False,
        "the paper's formula: the mean of a channel where it is active",
        of_class=False,
    ),
    "shapleycam": Method(
        "ShapleyCAM", "channels weighted by an estimate of their Shapley values", 1, True, extensive=True
    ),
    "finercam": Method(
        "FinerCAM",
        "what distinguishes the class from the classes most similar to it",
        1,
        True,
        "the weights of the other classes are constants, as in the paper",
        extensive=True,
    ),
    "refinecam": Method(
        "RefineCAM",
        "product of Grad-CAM++ at several layers",
        1,
        True,
        "no epsilon in Grad-CAM++",
        multi_layer=True,
        normalized=True,
    ),
    "cam": Method("CAM", "channels weighted by the classifier's own weights, after average pooling", 1, False, None),
    "smoothgradcam++": Method("SmoothGradCAMPlusPlus", "Grad-CAM++ averaged over noisy copies", 9, True, None),
    "randomcam": Method(
        "RandomCAM",
        "channels weighted at random: a baseline for all others; of no class",
        1,
        False,
        "its own generator",
        of_class=False,
    ),
    "sess": Method(
        "SESS", "Grad-CAM of windows at twelve scales, combined", 200, True, cost="about 200", normalized=True
    ),
    "integratedgradients": Method(
        "IntegratedGradients",
        "pixels times their gradients along the path from grey to the image",
        96,
        True,
        None,
        extensive=True,
        uses_layers=False,
    ),
    "smoothgrad": Method(
        "SmoothGrad",
        "magnitude of the pixels' gradients over noisy copies",
        75,
        True,
        None,
        extensive=True,
        uses_layers=False,
    ),
    "occlusion": Method(
        "Occlusion", "score lost where the image is covered", 170, False, None, cost="about 170", uses_layers=False
    ),
    "rise": Method("RISE", "mean score of the image under random masks", 1000, False, None, uses_layers=False),
    "guidedbackprop": Method(
        "GuidedBackpropReLUModel",
        "gradients of the pixels along positive paths",
        3,
        True,
        None,
        signed_image=True,
        uses_layers=False,
    ),
    "guidedgradcam": Method("GuidedGradCAM", "guided backpropagation times Grad-CAM", 4, True, None, signed_image=True),
}

# The map that a multiscale head makes itself, see crackcam/models/multiscale.py.
EVIDENCE = "evidence"
NAMED = METHODS | {
    EVIDENCE: Method(
        "",
        "the map that the logit is the sum of, with `--head multiscale`: probabilities",
        1,
        False,
        None,
        multi_layer=True,
    )
}

QUICK = tuple(name for name, method in METHODS.items() if method.quick)  # what ``--method all`` draws

# ``--method best``: evidence where the head makes it; otherwise this, of several layers, on a dilated model.
BEST, BEST_OF_ENGINE, BEST_STRIDE, BEST_FUSE = "best", "layercam", 8, "product"

OWN = "own"  # the scale of images at their native resolution
STYLES = ("overlay", "edges", "sidebyside", "contours", "mask")  # how a heatmap is shown
REFINEMENTS = ("lines",)  # crackcam/explain/refinement.py


def parse_methods(value: str | Sequence[str]) -> tuple[str, ...]:
    """'gradcam,layercam' -> ('gradcam', 'layercam'); 'all' -> :data:`QUICK`; 'best' -> ('best',).

    Raises:
        ValueError: an unknown name, or none; all are listed.
    """
    parts = tuple(_method_name(str(part)) for part in split_list(value))
    names = QUICK if parts == ("all",) else tuple(dict.fromkeys(parts))
    for name in names or ("",):
        if name not in NAMED and names != (BEST,):
            subject = "is not a method" if len(names) == 1 else f"contains {name!r}, which is not a method"
            close = difflib.get_close_matches(name, NAMED, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"{subject}; available: best, all, {', '.join(NAMED)}{hint}")
    return names


def _method_name(text: str) -> str:
    """The name behind a spelling: 'Eigen-CAM', 'GradCAMPlusPlus' of the engine; what is none stays as it is."""
    spellings = {
        spelled_alike(spelling): name
        for name, method in NAMED.items()
        for spelling in (method.class_name or name, name)
    }
    return spellings.get(spelled_alike(text)) or match_name(text, (BEST, "all")) or text


def method_class(name: str) -> type:
    """The class of ``pytorch_grad_cam`` behind a name."""
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, METHODS[name].class_name)
