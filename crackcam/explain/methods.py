"""The methods by the names that ``--method`` takes: the one place that lists them.

It makes xai.py's choices, the README's table and the tests' parameters. It imports no torch: the classes are named,
and found in ``pytorch_grad_cam`` when one is used.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        class_name: the class in ``pytorch_grad_cam``.
        shows: what the map means.
        passes: what one picture costs, in forward passes (a backward pass counts as two); C is the number of channels
            of the target layer.
        gradients: whether it differentiates the network.
        departs: why its maps differ from those of the package grad-cam; empty where they do not, None where the package
            has no such method.
        stages: by default it reads a layer of each of the last three grid sizes, not the last layer alone.
        picture: it makes signed pictures rather than maps.
    """

    class_name: str
    shows: str
    passes: str
    gradients: bool
    departs: str | None = ""
    stages: bool = False
    picture: bool = False


SIGN = "sign of the component: towards the sum of the channels, not LAPACK's"

METHODS = {
    "gradcam": Method("GradCAM", "channels weighted by their mean gradient", "1", True),
    "scorecam": Method("ScoreCAM", "channels weighted by the score of the picture seen through them", "C", False),
    "gradcam++": Method("GradCAMPlusPlus", "channels weighted by their positive gradients, place by place", "1", True,
                        "no epsilon beside the squared gradients"),
    "ablationcam": Method("AblationCAM", "channels weighted by the score lost without them", "2 at a late layer", False,
                          "divides by the size of the score, not by the signed score"),
    "xgradcam": Method("XGradCAM", "channels weighted by gradients where they are active", "1", True),
    "eigencam": Method("EigenCAM", "what varies most among the activations, of no class", "1", False, SIGN),
    "eigengradcam": Method("EigenGradCAM", "what varies most among gradients times activations", "1", True, SIGN),
    "layercam": Method("LayerCAM", "positive gradients times activations, place by place", "1", True),
    "fullgrad": Method("FullGrad", "the gradients of the input and of every bias", "3", True,
                       "stretches all channels of a picture together, as the authors do"),
    "hirescam": Method("HiResCAM", "gradients times activations, place by place", "1", True),
    "gradcamelementwise": Method("GradCAMElementWise", "positive products of gradients and activations", "1", True),
    "kpcacam": Method("KPCA_CAM", "what varies most among the activations, by a kernel", "1", False, SIGN),
    "segeigencam": Method("SegEigenCAM", "what varies most among absolute gradients times activations", "1", True),
    "fem": Method("FEM", "places where channels are unusually active, of no class", "1", False,
                  "the paper's formula: the mean of a channel where it is active"),
    "shapleycam": Method("ShapleyCAM", "channels weighted by an estimate of their Shapley values", "1", True),
    "finercam": Method("FinerCAM", "what tells the class from those most like it", "1", True,
                       "the weights of the other classes are constants, as in the paper"),
    "refinecam": Method("RefineCAM", "product of Grad-CAM++ at several layers", "1", True,
                        "no epsilon in Grad-CAM++", stages=True),
    "cam": Method("CAM", "channels weighted by the classifier's own weights, after average pooling", "1", False, None),
    "smoothgradcam++": Method("SmoothGradCAMPlusPlus", "Grad-CAM++ averaged over noisy copies", "9", True, None),
    "randomcam": Method("RandomCAM", "channels weighted at random: what a method must beat", "1", False,
                        "its own generator"),
    "sess": Method("SESS", "Grad-CAM of windows at twelve scales, laid over each other", "about 200", True),
    "integratedgradients": Method("IntegratedGradients", "pixels times their gradients on the way from grey", "96",
                                  True, None),
    "smoothgrad": Method("SmoothGrad", "size of the pixels' gradients over noisy copies", "75", True, None),
    "occlusion": Method("Occlusion", "what the score loses where the picture is covered", "about 170", False, None),
    "rise": Method("RISE", "mean score of the picture behind random masks", "1000", False, None),
    "guidedbackprop": Method("GuidedBackpropReLUModel", "the pixels' gradients along positive paths", "3", True, None,
                             picture=True),
    "guidedgradcam": Method("GuidedGradCAM", "guided backpropagation where Grad-CAM is warm", "4", True, None,
                            picture=True),
}  # fmt: skip

# What ``--method all`` draws: maps that cost at most ten forward passes.
QUICK = [
    name
    for name, method in METHODS.items()
    if method.passes.split()[0].isdigit() and int(method.passes.split()[0]) <= 10 and not method.picture
]

# Maps that share the score out among places: where a larger picture gives twice as many, each gets half.
SHARING = {
    "gradcam", "xgradcam", "eigengradcam", "layercam", "hirescam", "gradcamelementwise", "segeigencam", "shapleycam",
    "finercam", "integratedgradients", "smoothgrad",
}  # fmt: skip
# Maps that are stretched to [0, 1] on the way: those of two tiles cannot be laid side by side.
STRETCHED = {"fullgrad", "refinecam", "sess"}

OWN = "own"  # the scale of pictures as they are

# How xai.py shows a map.
STYLES = ("overlay", "edges", "sidebyside", "contours", "mask")

# What makes it follow the picture: ``crackcam/refining.py``.
REFINEMENTS = ("guided", "lines")


# The map that a multiscale head makes itself, see crackcam/multiscale.py: it is no method of the engine's.
EVIDENCE = "evidence"
NAMED = METHODS | {
    EVIDENCE: Method(
        "",
        "the map that the logit is the sum of, with `--head multiscale`: probabilities",
        "1",
        False,
        None,
        stages=True,
    )
}

# ``--method best``: evidence where the head makes it; elsewhere this, of several layers, on a finer grid.
BEST, BEST_OF_ENGINE, BEST_STRIDE, BEST_FUSE = "best", "layercam", 8, "product"


def named_methods(text: str) -> list[str]:
    """'gradcam,layercam' -> ['gradcam', 'layercam']; 'all' -> :data:`QUICK`; 'best' -> ['best'].

    Raises:
        argparse.ArgumentTypeError: an unknown name; all are listed.
    """
    names = QUICK if text == "all" else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in NAMED and names != [BEST]:
            raise argparse.ArgumentTypeError(f"no method {name!r}; there are: best, all, {', '.join(NAMED)}")
    return names


def method_class(name: str) -> type:
    """The class of ``pytorch_grad_cam`` behind a name."""
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, METHODS[name].class_name)


def markdown_table() -> str:
    """The README's table of methods."""
    rows = [f"| `{name}` | {m.shows} | {m.passes} | {'yes' if m.gradients else 'no'} |" for name, m in NAMED.items()]
    return "\n".join(["| `--method` | shows | forward passes | gradients |", "|---|---|---|---|", *rows])
