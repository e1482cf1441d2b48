"""Training in several processes, as torchrun starts them: each computes its shard of every batch, all learn the same.

*Gradients* are averaged by torch's DistributedDataParallel.
*Losses* are sums over a shard, divided by the weight of the whole batch (:func:`crackcam.distributed.all_reduce`).
*Batch norm* on GPUs takes mean and variance over the whole batch: torch's SyncBatchNorm. Torch has none for CPUs: there
each process normalises by its own shard, as if the batch were that small, and the running statistics are averaged over
the processes after each epoch. So with batch norm, losses differ slightly from those of one process on CPUs.
*Dropout* and stochastic depth draw other numbers in each process.

Models without batch norm and dropout have the losses of one process, within rounding; and a run in several processes
that is killed and resumed ends with the same weights, bit by bit, as one that is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, Sampler

from crackcam import distributed
from crackcam.errors import UserError
from crackcam.models.multiscale import Multiscale

RANK_STRIDE = 0x9E3779B9  # between the seeds of two processes; torch's generator on CPUs uses their lowest 32 bits


def check_batch(batch_size: int, images: int) -> None:
    """Raises UserError where some process would get no image of a batch."""
    smallest = min(batch_size, images)
    if smallest < distributed.world_size():
        raise UserError(
            f"{distributed.world_size()} processes cannot share batches of {smallest}: start fewer processes"
        )


def seed_process(seed: int) -> None:
    """Seed torch's generator, which dropout draws from, differently in each process; in the main one by ``seed``."""
    torch.manual_seed(seed + RANK_STRIDE * distributed.rank())


class ShardedBatches(Sampler[list[int]]):
    """This process's shard of every batch."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[distributed.shard(len(batch))]


class LogitsAndEvidence(nn.Module):
    """A model that also returns the map which its logits were pooled from.

    In several processes one call has to involve all parameters that learn: DistributedDataParallel sees no other.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Or DistributedDataParallel warns that it looks for unused parameters in vain: see below.
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (N, classes); the evidence (N, classes, h, w) of a multiscale head."""
        if isinstance(self.model, Multiscale):
            evidence = self.model.evidence(x)
            return self.model.pool(evidence), evidence
        return self.model(x), None


def distribute(model: nn.Module) -> nn.Module:
    """The model as :class:`LogitsAndEvidence` whose gradients are averaged over all processes.

    Its parameters become those of the main process. ``requires_grad`` of each has to be set before.
    """
    parameter = next(model.parameters())
    local = LogitsAndEvidence(model).to(parameter.device)
    if distributed.world_size() == 1:
        return local
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name since torch 2.15
        return nn.parallel.DistributedDataParallel(
            local,
            device_ids=[parameter.device] if parameter.is_cuda else None,
            broadcast_buffers=False,  # see average_batch_statistics
            # A multiscale head has layers behind its last stage. And buckets keep their order: those of a run that goes
            # on are sorted after its first step, and a run that is resumed would add up in another order.
            find_unused_parameters=True,
        )


# -- batch norm ------------------------------------------------------------------------------------------------------


def synchronize_batch_norm(model: nn.Module) -> None:
    """Let batch norm see whole batches where torch can: in several processes on GPUs. Tensors stay the same."""
    if distributed.world_size() > 1 and next(model.parameters()).is_cuda:
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, _BatchNorm):
                    setattr(parent, name, to_sync_batch_norm(layer))


def to_sync_batch_norm(layer: _BatchNorm) -> nn.Module:
    """SyncBatchNorm with the tensors of a layer; timm's where the layer contains more, an activation say."""
    if not list(layer.children()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(layer)


def average_batch_statistics(model: nn.Module) -> None:
    """Replace running statistics of batch norm by their mean over the processes; SyncBatchNorm has equal ones."""
    processes = distributed.world_size()
    for layer in model.modules():
        if processes > 1 and isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    distributed.all_reduce(statistic).div_(processes)
