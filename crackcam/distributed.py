"""Several processes as torchrun starts them: rank, shards, and collective operations.

    torchrun --nproc_per_node=4 train.py --arch resnet50

All functions work in a single process too, so that no caller has to ask how many there are. The main process alone
writes files and messages. NCCL carries tensors between GPUs, one GPU for each process; gloo between CPUs. torch is
imported only where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from crackcam.errors import UserError

if TYPE_CHECKING:
    import torch


T = TypeVar("T")

TIMEOUT = timedelta(days=7)  # for what one process does alone, as fitting a probe; torchrun ends all where one dies


def world_size() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


def local_world_size() -> int:
    """Number of processes of this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world_size() > 1 else 1


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process on its machine, where the device is "cuda" without a number and there are several."""
    import torch

    if device.type == "cuda" and device.index is None and world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def start(device: torch.device | None) -> None:
    """Join the process group; waits until all processes have joined.

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
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)


def stop() -> None:
    """Leave the process group. Only after success: NCCL waits for all, so a process that failed must not call it."""
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
    """The contiguous indices of 0..count that are this process's; lengths differ by one at most."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def all_gather(part: T) -> list[T]:
    """The objects of all processes, ordered by rank, in every process."""
    if world_size() == 1:
        return [part]
    import torch.distributed as dist

    parts: list = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def broadcast_object(make: Callable[[], T]) -> T:
    """The object that ``make`` returns in the main process, in every process.

    Raises:
        UserError: ``make`` raised it; in every process, so that none waits for the main one.
    """
    if world_size() == 1:
        return make()
    import torch.distributed as dist

    made: list = [None, None]
    if is_main():
        try:
            made[0] = make()
        except UserError as error:
            made[1] = error.with_flags
    dist.broadcast_object_list(made)
    if made[1] is not None:
        raise UserError(made[1])
    return made[0]


def of_machine(make: Callable[[], T]) -> T:
    """The object that ``make`` returns in the first process of a machine, in every process of that machine.

    Raises:
        UserError: ``make`` raised it in some process; in every process.
    """
    if world_size() == 1:
        return make()
    made: tuple[T | None, str | None] = None, None
    if local_rank() == 0:
        try:
            made = make(), None
        except UserError as error:
            made = None, error.with_flags
    of_all = all_gather(made)
    for _, message in of_all:
        if message is not None:
            raise UserError(message)
    return cast(T, of_all[rank() - local_rank()][0])


def check_identical(**values: object) -> None:
    """Raise UserError, in every process, where the values are not the same in all of them."""
    of_all = all_gather(values)
    unlike = [name for name, value in values.items() if any(other[name] != value for other in of_all)]
    if unlike:
        raise UserError(
            f"not all processes have the same {' and '.join(unlike)}: each needs the same files at the same place"
        )


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place; without gradient."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(values)
    return values
