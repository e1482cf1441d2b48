"""Settings."""

import os
from pathlib import Path

DATA, WEIGHTS, OUTPUTS = Path("data"), Path("weights/model.safetensors"), Path("outputs")
SHIPPED = Path(__file__).parents[1] / "weights" / "crack_resnet18.safetensors"  # trained by us; see weights/README.md
LARGEST_SIZE = 2048  # side of a network's input: a first layer of 64 channels takes a gigabyte for one picture

_offline = False  # what --offline of the last command said


def offline() -> bool:
    """Whether nothing may be fetched: ``--offline``, or the variable that Hugging Face's hub obeys, HF_HUB_OFFLINE."""
    return _offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
