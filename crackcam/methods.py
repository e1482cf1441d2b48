"""The CAM methods by the names that ``--method`` takes: the one place that lists them.

It makes xai.py's choices, the README's table and the tests' parameters. It imports no torch: the classes are named,
and found in ``pytorch_grad_cam`` when one is used.
"""

from typing import NamedTuple


class Method(NamedTuple):
    """One row of the table.

    Attributes:
        class_name: the class in ``pytorch_grad_cam``.
        shows: what the map means.
        passes: what one picture costs, in forward passes; C is the number of channels of the target layer.
        gradients: whether it differentiates the network.
    """

    class_name: str
    shows: str
    passes: str
    gradients: bool


METHODS = {
    "gradcam": Method("GradCAM", "channels weighted by their mean gradient", "1", True),
    "scorecam": Method("ScoreCAM", "channels weighted by the score of the picture seen through them", "C", False),
    "gradcam++": Method("GradCAMPlusPlus", "channels weighted by their positive gradients, place by place", "1", True),
    "ablationcam": Method(
        "AblationCAM", "channels weighted by the score lost without them", "C, above the layer", False
    ),
    "xgradcam": Method("XGradCAM", "channels weighted by gradients where they are active", "1", True),
    "eigencam": Method("EigenCAM", "what varies most among the activations, of no class", "1", False),
    "eigengradcam": Method("EigenGradCAM", "what varies most among gradients times activations", "1", True),
    "layercam": Method("LayerCAM", "positive gradients times activations, place by place", "1", True),
    "fullgrad": Method("FullGrad", "the gradients of the input and of every bias", "3", True),
}


def method_class(name: str) -> type:
    """The class of ``pytorch_grad_cam`` behind a name."""
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, METHODS[name].class_name)


def markdown_table() -> str:
    """The README's table of methods."""
    rows = [f"| `{name}` | {m.shows} | {m.passes} | {'yes' if m.gradients else 'no'} |" for name, m in METHODS.items()]
    return "\n".join(["| `--method` | shows | forward passes | gradients |", "|---|---|---|---|", *rows])
