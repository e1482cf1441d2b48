"""Transfer learning: a linear probe on features computed once, then fine-tuning from it.

*Probe.* The network, as ImageNet left it, turns every picture into features once; logistic regression (L-BFGS)
on them takes a second, its regularisation chosen on the validation split. The result is folded into the head.

*Fine-tuning* starts from the probe, with a small learning rate (Kumar et al., ICLR 2022: better away from the
training data than fine-tuning from a random head). From random weights there is nothing to probe, and the same loop
trains everything with stronger augmentation and a longer schedule, on small pictures first.

Every epoch draws from random generators seeded with its own number, every picture from one seeded with its own, and the
state after each epoch is written (:mod:`crackcam.resuming`). So a run that was killed goes on with the next epoch and
ends with the same weights as one that was not, and so does one in several processes (:mod:`crackcam.parallel`), within
rounding.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from crackcam import distributed
from crackcam.data.pixels import AugmentedSplit, PixelSplit, augmentation
from crackcam.data.synthetic.datasets import BlendedImages, SyntheticImages
from crackcam.data.synthetic.examples import COVERED, UNKNOWN
from crackcam.data.synthetic.sample import CRACKED
from crackcam.errors import UserError
from crackcam.models.heads import apply_temperature, set_linear_head
from crackcam.runtime import Runtime
from crackcam.text import first_line
from crackcam.training import parallel
from crackcam.training.calibration import Reliability, fit_temperature, reliability
from crackcam.training.features import forward, kept_features
from crackcam.training.resume import StateFile, Stateful

logger = logging.getLogger(__name__)

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, inverse strength
WEIGHT_DECAY = 0.05
WARM_UP = 0.25  # share of the steps in which the learning rate rises
MASK_WEIGHT = 8.0  # of a place's loss beside the picture's
CRACKS_ARE_RARE = 3.0  # weight of a place on a crack beside one that is not


@dataclass(frozen=True)
class Schedule:
    """How to train after the probe.

    Attributes:
        sizes: side of the training pictures in each epoch; small ones cost less and come first.
        lr: highest learning rate of AdamW; it rises to it, then falls to nothing (one cycle).
        batch_size: pictures a step.
        strong: strong augmentation, see :func:`crackcam.dataset.augmentation`.
        patience: epochs without a better one after which training stops; 0: never.
        seed: of shuffling and augmentation.
        workers: processes that augment.
        frozen: only the head learns; the rest of the network stays as it is, batch statistics too.
        mix: fraction of synthetic images; see :mod:`crackcam.data.synthetic.datasets`.
        mask_weight: weight of the masks of synthetic cracks in the loss of a multiscale head.
    """

    sizes: tuple[int, ...]
    lr: float
    batch_size: int
    strong: bool
    patience: int
    seed: int
    workers: int
    frozen: bool = False
    mix: float = 0.0
    mask_weight: float = MASK_WEIGHT


def schedule_for(
    from_random: bool, pictures: int, image_size: int, epochs: int | None, lr: float | None,
    takes: Callable[[int], bool] = lambda size: True, multiscale: bool = False, fresh_head: bool = True,
    **rest: Any,
) -> Schedule:  # fmt: skip
    """The default recipe, changed where ``epochs`` or ``lr`` is given.

    From random weights, epochs fall as the root of the number of pictures (510 pictures: 12, 3,000: 5), which takes
    time as the root; three fifths of them see pictures of 4/7 the size, a fifth 5/7, the rest the full size.

    The maps of a multiscale head are fresh even where the rest of the network is not: then they alone learn, as long.

    Args:
        takes: whether the network takes pictures of a size; those that it does not are replaced by the full size.
        multiscale: the head is one.
        fresh_head: nothing has taught the head yet.
    """
    many = min(30, max(3, round(280 / pictures**0.5)))
    if multiscale and fresh_head and not from_random:
        return Schedule(
            (image_size,) * (many if epochs is None else epochs), lr or 4e-3, strong=False, frozen=True, **rest
        )
    if from_random:
        epochs = many if epochs is None else epochs
        small, medium = round(image_size * 4 / 7), round(image_size * 5 / 7)
        first, second = round(epochs * 0.6), round(epochs * 0.8)
        sizes = [small if e < first else medium if e < second else image_size for e in range(epochs)]
        taken = {size: size if takes(size) else image_size for size in set(sizes)}
        return Schedule(tuple(taken[size] for size in sizes), lr or 1e-3, strong=True, **rest)
    return Schedule((image_size,) * (2 if epochs is None else epochs), lr or 1e-4, strong=False, **rest)


class Scores(NamedTuple):
    """A network on a split.

    Attributes:
        probabilities: (N, classes) float32.
        loss: mean cross entropy.
        accuracy: share of right predictions.
        balanced: mean over the classes of the share found, which choosing the best epoch goes by.
    """

    probabilities: np.ndarray
    loss: float
    accuracy: float
    balanced: float


def score(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Measure logits (N, classes) against labels (N,)."""
    from sklearn.metrics import recall_score

    predicted = logits.argmax(dim=1)
    present = labels.unique().tolist()
    return Scores(
        logits.softmax(dim=1).numpy(),
        F.cross_entropy(logits, labels).item(),
        (predicted == labels).float().mean().item(),
        float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    )


def evaluate(model: nn.Module, machine: Runtime, split: PixelSplit, batch_size: int) -> Scores:
    """Measure a network on a split."""
    return score(forward(model, machine, split, batch_size, "scoring"), split.labels)


def calibrate(model: nn.Module, machine: Runtime, val: PixelSplit, batch_size: int) -> float:
    """Fits a temperature on the validation split, folds it into the head and returns it."""
    temperature = fit_temperature(forward(model, machine, val, batch_size, "calibrating"), val.labels)
    apply_temperature(model, temperature)
    return temperature


class Report(NamedTuple):
    """The last word on a network.

    Attributes:
        metrics: accuracy, loss, calibration error (and what it was before), and per class precision, recall, F1 and
            number of pictures.
        confusion: (classes, classes) counts, rows are true classes.
        text: the same as a table.
        reliability: how sure the predictions are, and how often right.
        probabilities: (N, classes) float32, of the pictures of the split.
    """

    metrics: dict
    confusion: np.ndarray
    text: str
    reliability: Reliability
    probabilities: np.ndarray


def final_report(
    model: nn.Module, machine: Runtime, split: PixelSplit, classes: list[str], batch_size: int, temperature: float
) -> Report:
    """Score a split, class by class.

    Args:
        temperature: what the logits have been divided by.
    """
    from sklearn.metrics import classification_report, confusion_matrix

    logits, labels = forward(model, machine, split, batch_size, "scoring"), split.labels.numpy()
    scores = score(logits, split.labels)
    sure = reliability(scores.probabilities, labels)
    predicted = scores.probabilities.argmax(axis=1)
    indices = list(range(len(classes)))
    report = functools.partial(
        classification_report, labels, predicted, labels=indices, target_names=classes, zero_division=0
    )
    per_class = report(output_dict=True)
    metrics = {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced,
        "loss": scores.loss,
        "ece": sure.error,
        "ece_before": reliability((logits * temperature).softmax(dim=1).numpy(), labels).error,
        "per_class": {
            name: {
                "precision": per_class[name]["precision"],
                "recall": per_class[name]["recall"],
                "f1": per_class[name]["f1-score"],
                "pictures": int(per_class[name]["support"]),
            }
            for name in classes
        },
    }
    confusion = confusion_matrix(labels, predicted, labels=indices)
    return Report(metrics, confusion, report(digits=4), sure, scores.probabilities)


# -- linear probe ----------------------------------------------------------------------------------------------------


def linear_probe(
    model: nn.Module, machine: Runtime, train: PixelSplit, val: PixelSplit, batch_size: int, kept: Path | None = None
) -> Epoch:
    """Fit the head by logistic regression on features computed once; epoch 0 of the history.

    Classes count alike, whatever their sizes. The strength of the regularisation is that of the lowest validation loss.

    Args:
        kept: file of features, see :mod:`crackcam.features`.
    """
    found = kept_features(model, machine, {"train": train, "val": val}, batch_size, kept)
    x, x_val = found["train"], found["val"]
    # One process fits: others, on other processors, might round otherwise.
    weight, bias = distributed.broadcast_object(lambda: _logistic_regression(x, train.labels, x_val, val.labels))
    set_linear_head(model, weight, bias)
    scores = score(F.linear(x_val, weight, bias), val.labels)
    return Epoch(0, None, None, *scores[1:], lr=0.0, size=val.pixels.shape[-1], best=True)


def _logistic_regression(
    x: torch.Tensor, labels: torch.Tensor, x_val: torch.Tensor, val_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(classes, features) weights and (classes,) biases, float32, for features as they are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x.numpy())
    scaled, scaled_val = scaler.transform(x.numpy()), scaler.transform(x_val.numpy())
    probes = [LogisticRegression(C=strength, class_weight="balanced", max_iter=1000) for strength in REGULARISATION]
    for probe in probes:
        probe.fit(scaled, labels.numpy())
    best = min(
        probes, key=lambda probe: log_loss(val_labels.numpy(), probe.predict_proba(scaled_val), labels=probe.classes_)
    )
    weight, bias = best.coef_, best.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


# -- training loop ---------------------------------------------------------------------------------------------------


@dataclass
class Epoch:
    """One line of the log. Epoch 0 is the linear probe."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    lr: float
    size: int
    best: bool

    def says(self, epochs: int) -> str:
        """'epoch 1/2: train loss ..., val loss ... *', with the star of the best one so far."""
        trained = f"train loss {self.train_loss:.4f} accuracy {self.train_accuracy:.4f}, " if self.epoch else ""
        what = f"epoch {self.epoch}/{epochs}" if self.epoch else "linear probe"
        return (
            f"{what}: {trained}val loss {self.val_loss:.4f} accuracy {self.val_accuracy:.4f}{' *' if self.best else ''}"
        )

    def as_best(self) -> dict:
        """What a checkpoint of this epoch says of it."""
        return {"best_epoch": self.epoch, "val": {"accuracy": self.val_accuracy, "loss": self.val_loss}}


def is_better(candidate: Epoch, history: list[Epoch], by_loss: bool = False) -> bool:
    """Whether an epoch beats all before it: higher balanced accuracy, then lower loss, on the validation split.

    Args:
        by_loss: the loss alone, where validation pictures are made to be hard, so that accuracy is a matter of a few.
    """

    def merit(epoch: Epoch) -> tuple[float, ...]:
        return (-epoch.val_loss,) if by_loss else (epoch.val_balanced_accuracy, -epoch.val_loss)

    return all(merit(candidate) > merit(epoch) for epoch in history)


def fit(
    model: nn.Module, machine: Runtime, recipe: Schedule, train: PixelSplit, val: PixelSplit, history: list[Epoch],
    state: StateFile, before: dict | None, on_epoch: Callable[[Epoch], None],
) -> Epoch:  # fmt: skip
    """Train; ``history`` grows by one epoch after another. The model ends as it was after the best one, which returns.

    Args:
        history: epoch 0, where there was a probe; filled from the state where a run is resumed.
        state: what a killed run resumes from, written after every epoch.
        before: the state to resume from, see :func:`crackcam.resuming.read_state`.
        on_epoch: called after each epoch with the model in eval mode, before the state is written.

    Raises:
        UserError: the loss is no longer a number; nothing to do; or the state is that of another run.
    """
    if not recipe.sizes and not history and not before:
        raise UserError("--epochs 0 leaves the linear probe alone, and this network has none: give it epochs")
    parallel.check_batch(recipe.batch_size, len(train))
    counts = torch.bincount(train.labels, minlength=int(train.labels.max()) + 1)
    weights = (len(train) / (len(counts) * counts.clamp(min=1))).to(machine.device)
    steps = max(1, len(train) // recipe.batch_size)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (recipe.frozen and name.startswith("backbone.")))
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.lr, weight_decay=WEIGHT_DECAY)
    # A cycle of fewer than 8 steps has no rise.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=max(8, steps * len(recipe.sizes)), pct_start=WARM_UP
    )
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    best = copied(model) if history else {}
    if before:
        state.check(before)
        try:
            history[:], best = _taken_up(parts, before), before["best"]
        except Exception as error:  # it may hold anything
            said = f"the state in {state.path} is damaged ({first_line(error)}): train without --resume"
            raise UserError(said) from None
    rows: list[parallel.Rows] = []
    with parallel.together(model, rows):
        learner = parallel.learner(model)
        for epoch in range(history[-1].epoch + 1 if history else 1, len(recipe.sizes) + 1):
            if _is_over(recipe, history):
                logger.info(f"no better epoch in {recipe.patience}: stopping early")
                break
            size = recipe.sizes[epoch - 1]
            loss, accuracy = _train_epoch(
                model, learner, rows, machine, recipe, train, weights, optimizer, schedule, epoch, size
            )
            scores = evaluate(model, machine, val, recipe.batch_size)
            if not np.isfinite(loss + scores.loss):  # the last step may have spoilt what its own loss does not show
                raise UserError(
                    f"the loss is no longer a number in epoch {epoch}: try a lower --lr than {recipe.lr:g}, or "
                    f"--precision fp32"
                )
            rate = float(schedule.get_last_lr()[0])
            done = Epoch(epoch, loss, accuracy, *scores[1:], lr=rate, size=size, best=False)
            done.best = is_better(done, history, by_loss=recipe.mix > 0)
            history.append(done)
            if done.best:
                best = copied(model)
            on_epoch(done)
            if distributed.is_main():
                state.write(parts, [asdict(e) for e in history], best)
    model.load_state_dict(best)
    model.eval().requires_grad_(True)
    return best_of(history)


def _taken_up(parts: dict[str, Stateful], before: dict) -> list[Epoch]:
    """Puts a state into network, optimizer and schedule; returns the epochs so far. Raises whatever does not fit."""
    model, optimizer, schedule = cast("tuple[nn.Module, torch.optim.Optimizer, Any]", tuple(parts.values()))
    model.load_state_dict(before["best"])  # that it fits; what counts is put in at the end
    own = {name: type(value) for name, value in schedule.state_dict().items() if not callable(value)}
    if {name: type(value) for name, value in before["schedule"].items()} != own:
        raise ValueError("its schedule")
    for name, part in parts.items():
        part.load_state_dict(before[name])
    for parameter, kept in optimizer.state.items():
        if any(tensor.ndim and tensor.shape != parameter.shape for tensor in kept.values()):
            raise ValueError("its optimizer")
    history = [Epoch(**epoch) for epoch in before["history"]]
    if not all(isinstance(value, int | float | None) for epoch in history for value in vars(epoch).values()):
        raise ValueError("its history")
    best_of(history)
    return history


def best_of(history: list[Epoch]) -> Epoch:
    """The epoch that training keeps: the last that was better than all before it."""
    return [epoch for epoch in history if epoch.best][-1]


def _is_over(recipe: Schedule, history: list[Epoch]) -> bool:
    """Whether patience is; asked before an epoch, so that a resumed run stops where the killed one would have."""
    return bool(recipe.patience and history) and history[-1].epoch - best_of(history).epoch >= recipe.patience


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors as they are now, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _train_epoch(
    model: nn.Module, learner: nn.Module, rows: list[parallel.Rows], machine: Runtime, recipe: Schedule, train: PixelSplit,
    weights: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.OneCycleLR,
    epoch: int, size: int,
) -> tuple[float, float]:  # fmt: skip
    seed = recipe.seed * 100_003 + epoch
    torch.manual_seed(seed)
    random.seed(seed)
    pictures: Dataset = AugmentedSplit(train, augmentation(size, recipe.strong), seed)
    if recipe.mix:
        pictures = BlendedImages(pictures, SyntheticImages(train, seed, size), recipe.mix)
    generator = torch.Generator().manual_seed(seed)
    batches = BatchSampler(
        RandomSampler(train, generator=generator), recipe.batch_size,
        drop_last=len(train) >= recipe.batch_size,  # a last batch of one picture has no batch statistics
    )  # fmt: skip
    loader = DataLoader(
        pictures, batch_sampler=parallel.Shares(batches), num_workers=recipe.workers, generator=generator,
        pin_memory=machine.device.type == "cuda",
    )  # fmt: skip
    model.train()
    if recipe.frozen:
        model.get_submodule("backbone").eval()
    # Loss and right answers stay on the device until the epoch is over: a GPU is never waited for.
    told = torch.zeros(2, device=machine.device)
    seen = 0
    bar = tqdm(
        loader, f"epoch {epoch}/{len(recipe.sizes)}", leave=False, disable=distributed.hide_progress(), unit="batch"
    )  # fmt: skip
    for pixels, labels, *masks in bar:
        labels = labels.to(machine.device, non_blocking=True)
        count = min(recipe.batch_size, len(train) - seen)
        rows[:] = [parallel.Rows(distributed.shard(count), count)]
        with machine.autocast():
            logits, evidence = learner(machine.input(pixels))
        loss = F.cross_entropy(logits.float(), labels, weight=weights, reduction="sum")
        loss = loss / distributed.all_reduce(weights[labels].sum())
        if masks and evidence is not None and recipe.mask_weight:
            loss = loss + recipe.mask_weight * mask_loss(evidence[:, CRACKED], masks[0].to(machine.device))
        optimizer.zero_grad(set_to_none=True)
        (loss * distributed.world_size()).backward()  # the mean over processes is made of it
        optimizer.step()
        schedule.step()
        told += torch.stack([loss.detach() * count, (logits.detach().argmax(dim=1) == labels).sum()])
        seen += count
    loss, right = (distributed.all_reduce(told) / seen).tolist()
    return loss, right


def mask_loss(evidence: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the evidence for a crack, place by place, where it is known whether there is one.

    Of several processes each has its part; their sum is the mean over all known places.

    Args:
        evidence: (N, h, w) float32.
        masks: (N, H, W) uint8 as in :class:`crackcam.data.synthetic.examples.Example`.
    """
    known = (masks < UNKNOWN).float()
    cover = masks * known / COVERED
    height, width = evidence.shape[1:]
    cover, known = (F.adaptive_avg_pool2d(values[:, None], (height, width))[:, 0] for values in (cover, known))
    known = (known == 1).float()
    # A hairline covers a quarter of a place and is still a crack there.
    wanted = (2 * cover).clamp(max=1)
    losses = F.binary_cross_entropy_with_logits(
        evidence, wanted, reduction="none", pos_weight=torch.tensor(CRACKS_ARE_RARE, device=evidence.device)
    )
    return (losses * known).sum() / distributed.all_reduce(known.sum()).clamp(min=1)
