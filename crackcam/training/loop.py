"""Fine-tuning, epoch by epoch.

Every epoch draws from random generators seeded with its own number, every image from one seeded with its own, and the
state after each epoch is written (:mod:`crackcam.training.resume`). So a run that was killed continues with the next
epoch and ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from crackcam import distributed
from crackcam.data.pixels import AugmentedSplit, PixelSplit, augmentation
from crackcam.data.synthetic.datasets import BlendedImages, SyntheticImages
from crackcam.data.synthetic.sample import CRACKED
from crackcam.errors import UserError
from crackcam.models.loaded import LoadedModel
from crackcam.models.tensors import load_tensors
from crackcam.progress import Progress
from crackcam.text import first_line
from crackcam.training import parallel
from crackcam.training.evaluate import evaluate
from crackcam.training.history import Epoch, best_epoch, is_better
from crackcam.training.losses import mask_loss
from crackcam.training.resume import StateFile, Stateful
from crackcam.training.schedule import Schedule

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 0.05
BACKBONE = "backbone."  # how the names of its parameters begin, below a multiscale head
AVERAGED_OVER = 20  # the moving average of the weights is one over this fraction of the steps
WARM_UP = 0.25  # fraction of the steps in which the learning rate rises
SHORTEST_CYCLE = 8  # steps; the cycle of the learning rate would have no rise in fewer


class FineTuning:
    """One model, its optimizer, and what it learns from.

    Args:
        loaded: the model; trained in place.
        schedule: how to train it.
        train: images to learn from.
        val: images to choose the best epoch by.

    Raises:
        UserError: some process would get no image of a batch.
    """

    def __init__(self, loaded: LoadedModel, schedule: Schedule, train: PixelSplit, val: PixelSplit) -> None:
        parallel.check_batch(schedule.batch_size, len(train))
        self.loaded, self.schedule, self.train, self.val = loaded, schedule, train, val
        model, device = loaded.model, loaded.runtime.device
        counts = torch.bincount(train.labels, minlength=int(train.labels.max()) + 1)
        self.class_weights = (len(train) / (len(counts) * counts.clamp(min=1))).to(device)
        parallel.synchronize_batch_norm(model)
        groups, rates = self._parameter_groups()
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=WEIGHT_DECAY)
        steps = max(SHORTEST_CYCLE, len(train) // schedule.batch_size * len(schedule.sizes))
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=steps, pct_start=WARM_UP)
        self.forward = parallel.distribute(model)
        self.head_only = copy.deepcopy(model) if schedule.frozen_epochs else None  # as it was when the backbone thawed
        self.average = None
        if schedule.averaged:
            decay = 1 - min(1, AVERAGED_OVER / steps)
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def _parameter_groups(self) -> tuple[list[dict], list[float]]:
        """Groups of parameters, one of the backbone where it has a learning rate of its own; and their peak rates."""
        schedule, model = self.schedule, self.loaded.model
        if schedule.backbone_lr is None:
            return [{"params": list(model.parameters())}], [schedule.lr]
        backbone: list[nn.Parameter] = []
        head: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (backbone if name.startswith(BACKBONE) else head).append(parameter)
        return [{"params": head}, {"params": backbone}], [schedule.lr, schedule.backbone_lr]

    # -- all epochs --------------------------------------------------------------------------------------------------

    def run(
        self,
        history: list[Epoch],
        state: StateFile,
        resumed: dict | None = None,
        on_epoch: Callable[[Epoch], object] = lambda epoch: None,
    ) -> Epoch:
        """Train; the model ends as it was after the best epoch, which is returned.

        Where the head learned alone at first, it ends halfway between its weights of then and those of the best epoch:
        better on images unlike the training data (Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022,
        arXiv:2109.01903).

        Args:
            history: the linear probe, where there was one; filled from ``resumed``; grows by each epoch.
            state: written after every epoch.
            resumed: the state to continue from, see :func:`crackcam.training.resume.read_state`.
            on_epoch: called after each epoch with the model in eval mode, before the state is written.

        Raises:
            UserError: the loss is NaN or infinite; nothing to do; or the state is damaged or of another run.
        """
        model, epochs = self.loaded.model, len(self.schedule.sizes)
        if not (epochs or history or resumed):
            raise UserError("--epochs 0 trains the linear probe alone, and this model has none: give it epochs")
        best = copy_tensors(model) if history else {}
        if resumed:
            state.check(resumed)
            history[:], best = self._restore(resumed, state), resumed["best"]
        for number in range(history[-1].epoch + 1 if history else 1, epochs + 1):
            if self._patience_is_over(history):
                logger.info("no improvement in %s epochs: stopping early", self.schedule.patience)
                break
            trained = self.train_epoch(number)
            with self._averaged():
                done = self._finish_epoch(number, *trained, history)
                history.append(done)
                if done.best:
                    best = copy_tensors(model)
                if self.head_only and number == self.schedule.frozen_epochs:
                    load_tensors(self.head_only, copy_tensors(model))
                on_epoch(done)
            if distributed.is_main():
                state.write(self._parts(), [asdict(epoch) for epoch in history], best)
        if self.head_only and best_epoch(history).epoch > self.schedule.frozen_epochs:
            best = midpoint(copy_tensors(self.head_only), best)
        load_tensors(model, best)
        model.eval().requires_grad_(True)
        return best_epoch(history)

    def _finish_epoch(self, number: int, loss: float, accuracy: float, history: list[Epoch]) -> Epoch:
        """Validate; raises UserError where the training or validation loss is NaN or infinite."""
        parallel.average_batch_statistics(self.loaded.model)
        scores = evaluate(self.loaded, self.val, self.schedule.batch_size)
        if not np.isfinite(loss + scores.loss):  # the last step may have spoilt what its own loss does not show
            raise UserError(
                f"the loss is NaN or infinite in epoch {number}: try a lower --lr than {self.schedule.lr:g}, or "
                f"--precision fp32"
            )
        rate, size = float(self.cycle.get_last_lr()[0]), self.schedule.sizes[number - 1]
        done = Epoch(number, loss, accuracy, *scores[1:], lr=rate, size=size, best=False)
        return replace(done, best=is_better(done, history, by_loss=self.schedule.mix > 0))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, where they are averaged; afterwards as before."""
        if self.average is None:
            yield
            return
        current = [parameter.detach().clone() for parameter in self.loaded.model.parameters()]
        self._set_parameters(self.average.module.parameters())
        try:
            yield
        finally:
            self._set_parameters(current)

    def _set_parameters(self, values: Iterable[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.loaded.model.parameters(), values, strict=True):
                parameter.copy_(value)

    def _patience_is_over(self, history: list[Epoch]) -> bool:
        """Asked before an epoch, so that a resumed run stops where an uninterrupted one would have."""
        patience = self.schedule.patience
        return bool(patience and history) and history[-1].epoch - best_epoch(history).epoch >= patience

    # -- state -------------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {"model": self.loaded.model, "optimizer": self.optimizer, "schedule": self.cycle}
        more = {"average": self.average, "head_only": self.head_only}
        return {**parts, **{name: part for name, part in more.items() if part is not None}}

    def _restore(self, resumed: dict, state: StateFile) -> list[Epoch]:
        """Continue from a state; returns the epochs so far."""
        try:
            return self._load(resumed)
        except Exception as error:  # it may hold anything
            message = f"the state in {state.path} is damaged ({first_line(error)}): train without --resume"
            raise UserError(message) from None

    def _load(self, resumed: dict) -> list[Epoch]:
        """Raises whatever does not fit."""
        load_tensors(self.loaded.model, resumed["best"])  # to check that it fits; replaced below
        own = {name: type(value) for name, value in self.cycle.state_dict().items() if not callable(value)}
        if {name: type(value) for name, value in resumed["schedule"].items()} != own:
            raise ValueError("its schedule")
        for name, part in self._parts().items():
            if isinstance(part, nn.Module):
                load_tensors(part, resumed[name])
            else:
                part.load_state_dict(resumed[name])
        for parameter, moments in self.optimizer.state.items():
            if any(tensor.ndim and tensor.shape != parameter.shape for tensor in moments.values()):
                raise ValueError("its optimizer")
        history = [Epoch(**epoch) for epoch in resumed["history"]]
        if not all(isinstance(value, int | float | None) for epoch in history for value in vars(epoch).values()):
            raise ValueError("its history")
        best_epoch(history)
        return history

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def train_epoch(self, number: int) -> tuple[float, float]:
        """Train for one epoch; returns loss and accuracy, means over its augmented images."""
        schedule, model, device = self.schedule, self.loaded.model, self.loaded.runtime.device
        loader = self._loader(number)
        model.train()
        if schedule.frozen_statistics:
            model.get_submodule("backbone").eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(number > schedule.frozen_epochs or not name.startswith(BACKBONE))
        # Loss and correct predictions stay on the device until the epoch is over: a GPU is never waited for.
        sums = torch.zeros(2, device=device)
        seen = 0
        progress = Progress(f"epoch {number}/{len(schedule.sizes)}", len(loader), "batch")
        for pixels, labels, *masks in progress.over(loader):
            labels = labels.to(device, non_blocking=True)
            count = min(schedule.batch_size, len(self.train) - seen)
            loss, logits = self._step(pixels, labels, masks[0] if masks else None)
            sums += torch.stack([loss * count, (logits.argmax(dim=1) == labels).sum()])
            seen += count
        mean_loss, accuracy = (distributed.all_reduce(sums) / seen).tolist()
        return mean_loss, accuracy

    def _loader(self, number: int) -> DataLoader:
        """The augmented images of an epoch, in its order; this process's shard of each batch."""
        schedule, train = self.schedule, self.train
        seed, size = schedule.seed * 100_003 + number, schedule.sizes[number - 1]
        parallel.seed_process(seed)
        random.seed(seed)
        images: Dataset = AugmentedSplit(train, augmentation(size, schedule.strong), seed)
        if schedule.mix:
            images = BlendedImages(images, SyntheticImages(train, seed, size), schedule.mix)
        generator = torch.Generator().manual_seed(seed)
        batches = BatchSampler(
            RandomSampler(train, generator=generator),
            schedule.batch_size,
            drop_last=len(train) >= schedule.batch_size,  # a last batch of one image has no batch statistics
        )
        return DataLoader(
            images,
            batch_sampler=parallel.ShardedBatches(batches),
            num_workers=schedule.workers,
            multiprocessing_context=worker_start(schedule.workers),
            generator=generator,
            pin_memory=self.loaded.runtime.device.type == "cuda",
        )

    def _step(
        self, pixels: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer; returns this process's part of the loss, and logits (N, classes), detached."""
        try:
            with self.loaded.runtime.autocast():
                logits, evidence = self.forward(self.loaded.to_inputs(pixels))
        except ValueError as error:  # of batch norm, with a single value per channel
            if len(pixels) > 1 or isinstance(error, UserError):
                raise
            advice = "pass a larger --batch-size or --image-size"
            raise UserError(f"batches of one image do not suffice ({first_line(error)}): {advice}") from None
        loss = F.cross_entropy(logits.float(), labels, weight=self.class_weights, reduction="sum")
        loss = loss / distributed.all_reduce(self.class_weights[labels].sum())
        if masks is not None and evidence is not None and self.schedule.mask_weight:
            loss = loss + self.schedule.mask_weight * mask_loss(evidence[:, CRACKED], masks.to(labels.device))
        self.optimizer.zero_grad(set_to_none=True)
        (loss * distributed.world_size()).backward()  # gradients are averaged over the processes
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.loaded.model)
        self.cycle.step()
        return loss.detach(), logits.detach()


def worker_start(workers: int) -> str | None:
    """How worker processes start: on Linux forked, whatever Python's default is; None: by that default.

    A forked process has the images in memory already. Others would get them through /dev/shm, which Docker limits to
    64 MB.
    """
    return "fork" if workers and sys.platform == "linux" else None


def midpoint(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict halfway between two of one architecture; counters are those of the other."""
    return {
        name: torch.lerp(one[name], tensor, 0.5) if tensor.is_floating_point() else tensor
        for name, tensor in other.items()
    }


def copy_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model as it is now, copied to the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
