"""Logits and features of a whole split, each image once; features of the linear probe are cached for the next run.

Several processes compute a shard of the images each, and all get the whole.

The features of the linear probe are kept in a file beside the checkpoint (``model.features``), under a key of all that
they depend on: the model's tensors except its head, the arithmetic, the normalisation, and the pixels themselves, which
tell more than names, sizes and times of files and are read in a fiftieth of the time that the model needs. So a second
run on the same images, with another head or learning rate, starts at once. One file, of the last run only; none where
a split has more features than :data:`IN_MEMORY`: those are in a temporary file while they are used.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from crackcam import distributed
from crackcam.data import storage
from crackcam.data.pixels import PixelSplit
from crackcam.data.storage import Rows
from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.models.heads import head_inputs, head_name
from crackcam.models.loaded import LoadedModel
from crackcam.progress import Progress

logger = logging.getLogger(__name__)

IN_MEMORY = 2**27  # bytes of the features of a split; 65,000 images of 512 features
BLOCK = 256  # images that are hashed at a time
EXCHANGED = 4096  # images whose features are exchanged between machines at a time, by each process


@torch.no_grad()  # logits may be views of parameters
def compute_logits(loaded: LoadedModel, split: PixelSplit, batch_size: int, label: str) -> torch.Tensor:
    """Logits of a split, (N, classes) float32 on the CPU; the model runs in eval mode and stays in it.

    Args:
        loaded: the model.
        split: the images.
        batch_size: images at a time.
        label: of the progress bar.
    """
    parts = list(_shard_logits(loaded, split, batch_size, label))
    # Fetched at the end: a GPU goes on without waiting for us to look.
    return _gather(torch.cat(parts).cpu() if parts else None)


def compute_features(loaded: LoadedModel, split: PixelSplit, batch_size: int, label: str) -> Rows:
    """Inputs of the head, averaged over space, (N, features) float32 on the CPU; else as :func:`compute_logits`.

    More than :data:`IN_MEMORY` of them are kept in a temporary file, as float16.

    Raises:
        UserError: float16 has no room for a feature; or the disk none for the file.
    """
    if len(split) * _width(loaded) * torch.float32.itemsize > IN_MEMORY:
        return _stored_features(loaded, split, batch_size, label)
    shard = range(len(split))[distributed.shard(len(split))]
    # One tensor: a list of batches and then their concatenation would hold the features twice.
    found, start = torch.empty(len(shard), _width(loaded), device=loaded.runtime.device), 0
    with head_inputs(loaded.model) as seen:
        for _ in _shard_logits(loaded, split, batch_size, label):
            part = seen.pop()
            found[start : start + len(part)] = part
            start += len(part)
    return _gather(found.cpu() if len(shard) else None)


def _stored_features(loaded: LoadedModel, split: PixelSplit, batch_size: int, label: str) -> Rows:
    found, _ = storage.of_machine(lambda: (storage.in_file((len(split), _width(loaded)), torch.float16), None))
    shard = range(len(split))[distributed.shard(len(split))]
    start = shard.start
    with head_inputs(loaded.model) as seen:
        for _ in _shard_logits(loaded, split, batch_size, label):
            part = seen.pop().half().cpu()
            if not part.isfinite().all():
                raise UserError("a feature of the network is NaN, infinite or above 65,504: train it without its probe")
            found[start : start + len(part)] = part
            start += len(part)
    _exchange(found, shard)
    return found


def _exchange(rows: Rows, shard: range) -> None:
    """Complete the rows of each machine by those that the processes of other machines have computed."""
    if distributed.world_size() == distributed.local_world_size():
        distributed.barrier()  # all write into one file
        return
    for offset in range(0, max(distributed.all_gather(len(shard))), EXCHANGED):
        own = shard[offset : offset + EXCHANGED]
        for start, part in distributed.all_gather((own.start, rows[own.start : own.stop])):
            if distributed.local_rank() == 0:
                rows[start : start + len(part)] = part
    distributed.barrier()


def _width(loaded: LoadedModel) -> int:
    return loaded.model.get_parameter(f"{head_name(loaded.model)}.weight").shape[1]


def _shard_logits(loaded: LoadedModel, split: PixelSplit, batch_size: int, label: str) -> Iterator[torch.Tensor]:
    """Logits of this process's images, batch by batch, on the device."""
    loaded.model.eval()
    shard = split.part(distributed.shard(len(split))).pixels
    if not len(shard):
        return
    batches = Progress(label, -(-len(shard) // batch_size), "batch").over(shard.split(batch_size))
    for pixels in batches:
        with torch.inference_mode(), loaded.runtime.autocast():
            logits = loaded.model(loaded.to_inputs(pixels)).float()
        yield logits


def _gather(part: torch.Tensor | None) -> torch.Tensor:
    parts = [found for found in distributed.all_gather(part) if found is not None]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


# -- cache -----------------------------------------------------------------------------------------------------------


def cached_features(
    loaded: LoadedModel, splits: dict[str, PixelSplit], batch_size: int, file: Path | None
) -> Mapping[str, Rows]:
    """Features of each split, from the file where it has them, else computed and written.

    Args:
        loaded: the model.
        splits: the images, by name of the split.
        batch_size: images at a time.
        file: see the module's docstring; None: always computed.
    """
    if max(map(len, splits.values())) * _width(loaded) * torch.float32.itemsize > IN_MEMORY:
        file = None
    key = cache_key(loaded, splits) if file else ""
    found = distributed.broadcast_object(lambda: read_cache(file, key) if file else None)
    if found is not None and _fits(found, splits, loaded):
        logger.info("features: reused from %s", file)
        return found
    computed = {
        name: compute_features(loaded, split, batch_size, f"features of {name}") for name, split in splits.items()
    }
    whole = {name: rows for name, rows in computed.items() if isinstance(rows, torch.Tensor)}
    if file and distributed.is_main() and len(whole) == len(splits):
        write_atomically(file, lambda temporary: save_file(whole, temporary, metadata={"key": key}))
    return computed


def read_cache(file: Path, key: str) -> dict[str, torch.Tensor] | None:
    """The content of a file of features; None where there is none, it has another key, or it is damaged."""
    try:
        with safe_open(file, framework="pt") as cache:
            if (cache.metadata() or {}).get("key") == key:
                # Copied to where torch's own tensors begin: sums are rounded by how their numbers lie in memory.
                return {name: cache.get_tensor(name).clone() for name in cache.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        pass
    return None


def _fits(found: dict[str, torch.Tensor], splits: dict[str, PixelSplit], loaded: LoadedModel) -> bool:
    """Whether shapes and values are possible: whoever knows the images can make up the key."""
    width = _width(loaded)
    return found.keys() == splits.keys() and all(
        tensor.dtype == torch.float32 and tensor.shape == (len(splits[name]), width) and bool(tensor.isfinite().all())
        for name, tensor in found.items()
    )


def cache_key(loaded: LoadedModel, splits: dict[str, PixelSplit]) -> str:
    """SHA-256 of all that features depend on, in hexadecimal."""
    model, preprocessing, runtime = loaded.model, loaded.preprocessing, loaded.runtime
    head = head_name(model)
    normalisation = [[*preprocessing.mean], [*preprocessing.std]]
    arithmetic = [torch.__version__, runtime.device.type, runtime.dtype, *normalisation]
    key = hashlib.sha256(repr([type(model).__qualname__, arithmetic]).encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{head}."):
            key.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
            key.update(tensor.cpu().contiguous().numpy().data)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, split in splits.items():
            key.update(f"{name} {[*split.pixels.shape]}".encode())
            for digest in pool.map(functools.partial(_digest, split.pixels), range(0, len(split), BLOCK)):
                key.update(digest)
    return key.hexdigest()


def _digest(pixels: Rows, start: int) -> bytes:
    return hashlib.sha256(pixels[start : start + BLOCK].contiguous().numpy().data).digest()
