"""Several processes at one work, as torchrun starts them: who am I, what is my share, and what did the others find.

    torchrun --nproc_per_node=4 train.py --arch resnet50

Everything here does the obvious in a single process, so that no caller asks how many there are. Messages and files come
from one process, the main one. NCCL carries tensors between GPUs, one for each process, gloo between processors.
Imports torch only where there is work for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch


T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)  # for what another does alone, as fitting a probe; torchrun ends all where one dies


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


def hide_progress() -> bool | None:
    """What tqdm's ``disable`` should be: bars at a terminal only, and of the main process only."""
    return None if is_main() else True


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine, where the device is a GPU without a number."""
    import torch

    if device.type == "cuda" and device.index is None and world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def start(device: torch.device | None) -> None:
    """Find the other processes; waits until all are there.

    Args:
        device: where the tensors are that will be exchanged; None: none will.
    """
    import torch.distributed as dist

    if world_size() == 1 or dist.is_initialized():
        return
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        import torch

        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)


def stop() -> None:
    """Leave the others. For processes that end well: GPUs leave together, and one that failed would wait for them."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def shard(count: int) -> slice:
    """The indices of 0..count that are this process's: a run of them, as long as any other's or one less or more."""
    mine, all_ = rank(), world_size()
    return slice(mine * count // all_, (mine + 1) * count // all_)


def all_gather(part: T) -> list[T]:
    """What each process has, in the order of their ranks, in every process."""
    if world_size() == 1:
        return [part]
    import torch.distributed as dist

    parts: list = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def broadcast_object(make: Callable[[], T]) -> T:
    """What the main process makes, in every process; also the UserError that it meets, so that none waits for it."""
    if world_size() == 1:
        return make()
    import torch.distributed as dist

    from crackcam.errors import UserError

    made: list = [None, None]
    if is_main():
        try:
            made[0] = make()
        except UserError as error:
            made[1] = str(error)
    dist.broadcast_object_list(made)
    if made[1] is not None:
        raise UserError(made[1])
    return made[0]


def check_identical(**found: object) -> None:
    """Raises UserError, in every process, where one found something else: they could not work on the same."""
    from crackcam.errors import UserError

    of_all = all_gather(found)
    unlike = [name for name, value in found.items() if any(other[name] != value for other in of_all)]
    if unlike:
        raise UserError(
            f"not all processes have the same {' and '.join(unlike)}: each needs the same files at the same place"
        )


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place; no gradient flows through it."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values
