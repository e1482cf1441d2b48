"""Train an image classifier by transfer learning, predict with it, and show where the decision came from.

    import crackcam
    model = crackcam.load()
    for prediction in model.predict("bridge/*.jpg"):
        print(prediction.path, prediction.label, prediction.confidence)
    model.explain("wall.jpg").overlay().save("wall_heatmap.png")

Importing the package imports no torch: public names are loaded when they are first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crackcam import _engine
from crackcam.errors import UserError

if TYPE_CHECKING:
    from crackcam.classifier import Classifier, load
    from crackcam.config import ExplainConfig, TrainConfig
    from crackcam.explain.detectors import Detector
    from crackcam.explain.explanation import Explanation
    from crackcam.preprocessing import Preprocessing
    from crackcam.sizes import Scale
    from crackcam.training.trainer import TrainResult, train
    from crackcam.types import Detection, Prediction, Region

__version__ = "0.2.0"

if sys.version_info >= (3, 11):  # noqa: UP036 - else the first use of a name says so
    _engine.check()

_HOMES = {
    "Classifier": "classifier",
    "Detection": "types",
    "Detector": "explain.detectors",
    "ExplainConfig": "config",
    "Explanation": "explain.explanation",
    "Prediction": "types",
    "Preprocessing": "preprocessing",
    "Region": "types",
    "Scale": "sizes",
    "TrainConfig": "config",
    "TrainResult": "training.trainer",
    "load": "classifier",
    "train": "training.trainer",
}

__all__ = [
    "Classifier",
    "Detection",
    "Detector",
    "ExplainConfig",
    "Explanation",
    "Prediction",
    "Preprocessing",
    "Region",
    "Scale",
    "TrainConfig",
    "TrainResult",
    "UserError",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    _engine.check_python()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
