"""Training in several processes as if it were one: each computes its rows of every batch, and all learn the same.

What looks at a whole batch, or draws one random number after the other for it, has to be told of the other rows:

*Gradients* are averaged by torch's DistributedDataParallel.
*Losses* are sums over own rows, divided by what all rows weigh (:func:`crackcam.distributed.summed`).
*Batch norm* takes mean and variance over all rows: torch's SyncBatchNorm on GPUs; there is none for processors, so
there the same is written down here, with a sum over processes that gradients flow through.
*Dropout* and stochastic depth multiply by random numbers: each process draws them for all rows, which costs next to
nothing, and takes its own. So the same seed drops the same, however many processes there are.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, Sampler
from torchvision.ops import StochasticDepth

from crackcam import distributed
from crackcam.errors import UserError
from crackcam.models.multiscale import Multiscale

RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, StochasticDepth)


class Rows(NamedTuple):
    """This process's rows of the batch at hand, and how many it has in all."""

    own: slice
    of: int


def check_batch(batch_size: int, pictures: int) -> None:
    """Raises UserError where some process would get no row of a batch."""
    if min(batch_size, pictures) < distributed.world_size():
        raise UserError(
            f"{distributed.world_size()} processes share each batch of {min(batch_size, pictures)}: start fewer"
        )


class Shares(Sampler[list[int]]):
    """This process's share of every batch."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[distributed.shard(len(batch))]


class Learner(nn.Module):
    """A network that also shows what its logits were pooled from.

    Several processes need one call for all that is learned: DistributedDataParallel follows no other.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Or DistributedDataParallel warns that it looks for what is not used: see below.
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (N, classes); the evidence of a multiscale head."""
        if isinstance(self.model, Multiscale):
            evidence = self.model.evidence(x)
            return self.model.pool(evidence), evidence
        return self.model(x), None


def learner(model: nn.Module) -> nn.Module:
    """The network as a :class:`Learner` whose gradients are averaged over all processes.

    Its parameters become those of the main process; what does not learn has been told so before.
    """
    one = Learner(model).to(next(model.parameters()).device)
    if distributed.world_size() == 1:
        return one
    gpu = next(model.parameters()).is_cuda
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name since torch 2.15
        return nn.parallel.DistributedDataParallel(
            one,
            device_ids=[next(model.parameters()).device] if gpu else None,
            broadcast_buffers=False,  # equal already: see batch_norm
            # A multiscale head has layers behind its last stage. And buckets keep their order: those of a run that goes
            # on are sorted after its first step, and a run that is resumed would add up in another order.
            find_unused_parameters=True,
        )


@contextmanager
def together(model: nn.Module, rows: list[Rows]) -> Iterator[None]:
    """Within it, layers that look at whole batches see those of all processes; nothing changes in a single one.

    Args:
        model: on its device; as it was, afterwards.
        rows: its last one are those that the next run of the model gets.
    """
    if distributed.world_size() == 1:
        yield
        return
    patched, replaced = [], []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _BatchNorm) and next(model.parameters()).is_cuda:
                replaced.append((parent, name, layer))
                setattr(parent, name, synchronised(layer))
            elif isinstance(layer, _BatchNorm) or is_random(layer):
                does: Any = (
                    functools.partial(batch_norm, layer)
                    if isinstance(layer, _BatchNorm)
                    else functools.partial(drop, layer, rows)
                )
                layer.forward = does
                patched.append(layer)
    try:
        yield
    finally:
        for layer in patched:
            del layer.forward
        for parent, name, layer in replaced:
            layer.train(getattr(parent, name).training)
            setattr(parent, name, layer)


def synchronised(layer: _BatchNorm) -> nn.Module:
    """Torch's batch norm over all GPUs, of the same tensors; timm's where the layer also does what comes behind."""
    if not list(layer.children()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(layer)


def is_random(layer: nn.Module) -> bool:
    """Whether a layer multiplies by random numbers in training; timm's DropPath is known by its name."""
    return isinstance(layer, RANDOM) or type(layer).__name__ == "DropPath"


def drop(layer: nn.Module, rows: list[Rows], x: torch.Tensor) -> torch.Tensor:
    """What a layer that multiplies by random numbers does, with those that one process would have drawn."""
    plain = type(layer).forward
    if not layer.training:
        return plain(layer, x)
    # Memory is filled with numbers in its own order, which for grids is channels last.
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    memory = torch.channels_last if last else torch.contiguous_format
    own, of = rows[-1]
    each = len(x) // (own.stop - own.start)  # rows of a picture: Swin lays its windows beneath each other
    ones = torch.ones((each * of, *x.shape[1:]), dtype=x.dtype, device=x.device)
    with torch.no_grad():
        factors = plain(layer, ones.contiguous(memory_format=memory))
    return x * factors[each * own.start : each * own.stop]


class Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient, for each process's loss depends on it."""

    @staticmethod
    def forward(_: Any, own: torch.Tensor) -> torch.Tensor:
        return distributed.all_reduce(own.clone())

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.all_reduce(gradient.clone())


def batch_norm(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Batch norm over the rows of all processes, (N, C, ...); in evaluation as it always is."""
    if not layer.training:
        return type(layer).forward(layer, x)
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    values = x.float()
    count = distributed.all_reduce(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = Summed.apply(values.sum(axes)) / count
    centred = values - mean.view(shape)
    variance = Summed.apply(centred.square().sum(axes)) / count
    if layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            momentum = layer.momentum if layer.momentum is not None else 1 / layer.num_batches_tracked.item()
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)
    out = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    out = out.to(x.dtype)
    for behind in layer.children():  # timm's BatchNormAct2d: dropout, activation
        out = behind(out)
    return out
