"""What a network says of a whole split, each picture once: its logits, or its features, kept for the next run.

Several processes take a part of the pictures each and all get the whole.

The features of the linear probe are kept in a file beside the checkpoint (``model.features``), under a key of all that
they depend on: the network's tensors but the head's, the arithmetic, the normalisation, and the pixels themselves,
which say more than names, sizes and times of files and are read in a fiftieth of the time that the network needs. So a
second run on the same pictures, with another head or learning rate, starts at once. One file, of the last run only;
none where it would be larger than :data:`LARGEST`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from crackcam import distributed
from crackcam.data.pixels import PixelSplit
from crackcam.files import write_atomically
from crackcam.models.heads import head_inputs, head_name
from crackcam.runtime import Runtime

logger = logging.getLogger(__name__)

LARGEST = 2**30  # bytes; 128,000 pictures of 2,048 features
BLOCK = 256  # pictures that are hashed at a time


def forward(model: nn.Module, machine: Runtime, split: PixelSplit, batch_size: int, what: str) -> torch.Tensor:
    """Logits of a split, (N, classes) float32 on the CPU; the network runs in eval mode and stays in it."""
    return _all(_own_logits(model, machine, split, batch_size, what))


def features(model: nn.Module, machine: Runtime, split: PixelSplit, batch_size: int, what: str) -> torch.Tensor:
    """What reaches the head, pooled over places, (N, features) float32 on the CPU; otherwise as :func:`forward`."""
    with head_inputs(model) as seen:
        _own_logits(model, machine, split, batch_size, what)
    return _all(torch.cat([part.float() for part in seen]).cpu() if seen else None)


def _own_logits(
    model: nn.Module, machine: Runtime, split: PixelSplit, batch_size: int, what: str
) -> torch.Tensor | None:
    model.eval()
    own = split.pixels[distributed.shard(len(split))]
    if not len(own):
        return None
    batches = tqdm(own.split(batch_size), what, leave=False, disable=distributed.hide_progress(), unit="batch")
    with torch.inference_mode(), machine.autocast():
        # Fetched at the end: a GPU works on without waiting for us to look.
        return torch.cat([model(machine.input(pixels)).float() for pixels in batches]).cpu()


def _all(part: torch.Tensor | None) -> torch.Tensor:
    return torch.cat([found for found in distributed.all_gather(part) if found is not None])


def kept_features(
    model: nn.Module, machine: Runtime, splits: dict[str, PixelSplit], batch_size: int, file: Path | None
) -> dict[str, torch.Tensor]:
    """Features of each split, from the file where it has them, else computed and written.

    Args:
        file: see the module's docstring; None: always computed.
    """
    key = key_of(model, machine, splits) if file else ""
    found = distributed.broadcast_object(lambda: read(file, key) if file else None)
    if found is not None and _fit(found, splits, model.get_parameter(f"{head_name(model)}.weight").shape[1]):
        logger.info(f"features: those of the last run, in {file}")
        return found
    found = {name: features(model, machine, split, batch_size, f"features of {name}") for name, split in splits.items()}
    if file and distributed.is_main() and sum(tensor.nbytes for tensor in found.values()) <= LARGEST:
        write_atomically(file, lambda temporary: save_file(found, temporary, metadata={"key": key}))
    return found


def read(file: Path, key: str) -> dict[str, torch.Tensor] | None:
    """The content of a file of features; None where there is none, of another key, or it is damaged."""
    try:
        with safe_open(file, framework="pt") as kept:
            if (kept.metadata() or {}).get("key") == key:
                # Copied to where torch's own tensors begin: sums are rounded by how their numbers lie in memory.
                return {name: kept.get_tensor(name).clone() for name in kept.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        pass
    return None


def _fit(found: dict[str, torch.Tensor], splits: dict[str, PixelSplit], wide: int) -> bool:
    """Whether they are so many numbers of as many pictures: whoever knows the pictures can make up the key."""
    return found.keys() == splits.keys() and all(
        tensor.dtype == torch.float32 and tensor.shape == (len(splits[name]), wide) and bool(tensor.isfinite().all())
        for name, tensor in found.items()
    )


def key_of(model: nn.Module, machine: Runtime, splits: dict[str, PixelSplit]) -> str:
    """SHA-256 of all that features depend on, in hexadecimal."""
    head = head_name(model)
    arithmetic = [torch.__version__, machine.device.type, machine.dtype, [*machine.mean], [*machine.std]]
    key = hashlib.sha256(repr([type(model).__qualname__, arithmetic]).encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{head}."):
            key.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
            key.update(tensor.cpu().contiguous().numpy().data)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, split in splits.items():
            key.update(f"{name} {[*split.pixels.shape]}".encode())
            for digest in pool.map(_digest, split.pixels.split(BLOCK)):
                key.update(digest)
    return key.hexdigest()


def _digest(pixels: torch.Tensor) -> bytes:
    return hashlib.sha256(pixels.contiguous().numpy().data).digest()
