"""Run again only what lies above a layer.

While a model runs, the outputs of the modules that finish before the layer does are kept on a tape: the outermost ones
only, since what they contain does not run again either. In a replay these modules return what they returned then, for
one picture as often as asked, and everything else runs: the modules that contain the layer, those above it, and the
functions in between, in whatever order the model's own ``forward`` calls them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_grad_cam.activations_and_gradients import Module, forward_hooks
from pytorch_grad_cam.batches import Batch, call, each_tensor, target_scores, tensors
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, Target


@dataclass(frozen=True)
class _Run:
    module: Module
    output: Batch
    versions: tuple[int, ...]


class Tape:
    """What one run of a model did below a layer.

    Args:
        model: the model.
        layer: one of its modules; if it runs several times, its last run counts.
        size: number of pictures in the run.
    """

    def __init__(self, model: Module, layer: Module, size: int) -> None:
        self.model, self.layer, self.size = model, layer, size
        self._below: list[_Run] = []
        self._layer_runs = 0
        self._head: nn.Linear | None = None
        self._whole = False  # whether replays must run the whole model

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Around one run of the model."""
        thread = threading.get_ident()
        finished: list[_Run] = []
        starts: list[int] = []
        linear: list[Any] = []  # the last one that ran, its output, and the output's version

        def begins(module: Module, inputs: Any) -> None:
            if threading.get_ident() == thread:
                starts.append(len(finished))

        def ends(module: Module, inputs: Any, output: Batch) -> None:
            if threading.get_ident() != thread:
                return
            start = starts.pop()
            if next(tensors(output), None) is None:
                return  # an object of the model's own: it is made again, from what lies inside
            del finished[start:]  # those inside it
            if module is self.layer:
                self._below = list(finished)
                self._layer_runs += 1
            finished.append(_Run(module, output, tuple(t._version for t in tensors(output))))
            if type(module) is nn.Linear:
                linear[:] = [module, output, output._version]
            if module is self.model and linear and linear[1] is output and linear[2] == output._version:
                self._head = linear[0]

        with ExitStack() as stack:
            for module in self.model.modules():
                stack.callback(module.register_forward_pre_hook(begins).remove)
                stack.callback(module.register_forward_hook(ends).remove)
            yield

    def check(self, inputs: Batch, picture: int, layer_output: Batch, target: Target, score: torch.Tensor) -> None:
        """Replay a picture as it was. Unless that gives the score that it had, :meth:`scores` runs the whole model.

        A replay is not exact where something works in place on what a module below the layer put out, where such a
        module does not put out one row for each picture, or where the caller's hooks change what is put out.

        Args:
            inputs, picture, layer_output, target: as for :meth:`scores`; more than one row.
            score: the target's score in the recorded run.
        """
        self._whole = self._whole or not self._is_exact()
        if not self._whole:
            tolerance = torch.finfo(score.dtype).eps ** 0.5 * (1 + score.abs())
            try:
                replayed = self._replayed(inputs, picture, layer_output, target)
                self._whole = not bool(((replayed - score).abs() <= tolerance).all())
            except Exception:  # had it another reason than the replay, it comes again
                self._whole = True

    def scores(self, inputs: Batch, picture: int, layer_output: Batch, target: Target) -> torch.Tensor:
        """The target's scores, had the layer put out something else: (rows,) float32.

        Args:
            inputs: the picture, once for each row.
            picture: its index in the recorded run.
            layer_output: what the layer puts out, with as many rows.
            target: what is scored.
        """
        if not self._whole:
            return self._replayed(inputs, picture, layer_output, target).float()
        rows, runs = len(next(tensors(layer_output))), iter(range(self._layer_runs))

        def replace(_: int, output: Batch) -> Batch | None:
            return layer_output if next(runs) == self._layer_runs - 1 else None

        with forward_hooks([self.layer], replace):
            return target_scores([target] * rows, call(self.model, inputs)).float()

    def _replayed(self, inputs: Batch, picture: int, layer_output: Batch, target: Target) -> torch.Tensor:
        # Of the logits of a linear classifier, the one asked for is enough.
        category = target.category if self._head is not None and type(target) is ClassifierOutputTarget else None
        rows = len(next(tensors(layer_output)))
        with self._replaying(picture, layer_output, rows, category):
            outputs = call(self.model, inputs)
        return target_scores([target] * rows, outputs) if category is None else outputs[:, 0]

    def _is_exact(self) -> bool:
        """Whether what is on the tape is one row for each picture, and still as it was put out."""
        on_tape = [(t, v) for run in self._below for t, v in zip(tensors(run.output), run.versions, strict=True)]
        latest = {id(tensor): version for tensor, version in on_tape}
        unchanged = all(tensor._version == latest[id(tensor)] for tensor, _ in on_tape)
        return unchanged and all(tensor.ndim and len(tensor) == self.size for tensor, _ in on_tape)

    @contextmanager
    def _replaying(self, picture: int, layer_output: Batch, rows: int, category: int | None) -> Iterator[None]:
        thread = threading.get_ident()

        def repeated(output: torch.Tensor) -> torch.Tensor:
            one = output[picture : picture + 1]
            return one.clone() if rows == 1 else one.expand(rows, *one.shape[1:])

        def logit(features: torch.Tensor) -> torch.Tensor:
            head = cast(nn.Linear, self._head)
            chosen = slice(category, None if category == -1 else cast(int, category) + 1)
            return F.linear(features, head.weight[chosen], None if head.bias is None else head.bias[chosen])

        waiting: dict[Module, list[Callable[..., Batch]]] = {}
        for run in self._below:
            again = partial(each_tensor, repeated, run.output)
            waiting.setdefault(run.module, []).append(lambda *_, again=again, **__: again())
        waiting.setdefault(self.layer, []).append(lambda *_, **__: layer_output)
        if category is not None:
            waiting.setdefault(cast(nn.Linear, self._head), []).append(logit)

        def stand_in(original: Callable[..., Batch], others: Iterator[Callable[..., Batch]]) -> Callable[..., Batch]:
            def forward(*arguments: Any, **keywords: Any) -> Batch:
                chosen = next(others, original) if threading.get_ident() == thread else original
                return chosen(*arguments, **keywords)

            return forward

        with ExitStack() as stack:
            for module, others in waiting.items():
                own = vars(module).get("forward")
                module.forward = stand_in(module.forward, iter(others))
                stack.callback(_put_back, module, own)
            yield


def _put_back(module: Module, own: Any) -> None:
    del module.__dict__["forward"]
    if own is not None:
        module.forward = own
