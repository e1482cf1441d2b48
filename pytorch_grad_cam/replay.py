"""Run again only the part of a model above a layer.

While the model runs, a tape records the outputs of the modules that finish before the layer does; only the outermost
ones, since the modules inside them do not run again either. In a replay, these modules return their recorded outputs,
for one image repeated as often as needed, and everything else runs: the modules that contain the layer, those above it,
and the functions in between, in whatever order the model's own ``forward`` calls them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_grad_cam.activations_and_gradients import Module, forward_hooks
from pytorch_grad_cam.batches import Batch, call_model, call_without_copies, map_tensors, tensors
from pytorch_grad_cam.outputs import target_scores
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, Target

Forward = Callable[..., Batch]


@dataclass(frozen=True)
class _ModuleRun:
    """A finished module, its output, and the version counters of the output's tensors."""

    module: Module
    output: Batch
    versions: tuple[int, ...]


class Tape:
    """Recording of one run of a model below a layer.

    Args:
        model: the model.
        layer: one of its modules.
        size: number of images in the run.

    Attributes:
        run: which of the layer's runs counts, if there are several.
    """

    def __init__(self, model: Module, layer: Module, size: int) -> None:
        self.model, self.layer, self.size = model, layer, size
        self.run = 0
        self._below_runs: list[list[_ModuleRun]] = []  # for each run of the layer
        self._head: nn.Linear | None = None
        self._run_whole_model = False  # set where a replay would not be exact

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the first run of the model in this context."""
        thread, ended = threading.get_ident(), threading.Event()
        finished: list[_ModuleRun] = []
        starts: list[int] = []
        linear: list[Any] = []  # the last linear layer that ran, its output, and the output's version

        def on_start(module: Module, inputs: Any) -> None:
            if threading.get_ident() == thread and not ended.is_set():
                starts.append(len(finished))

        def on_end(module: Module, inputs: Any, output: Batch) -> None:
            if threading.get_ident() != thread or ended.is_set():
                return
            start = starts.pop()
            if module is self.model:
                ended.set()
            if next(tensors(output), None) is None:
                return  # an object of the model's own class: it is made again from the modules inside
            del finished[start:]  # the modules inside this one
            if module is self.layer:
                self._below_runs.append(list(finished))
            finished.append(_ModuleRun(module, output, tuple(t._version for t in tensors(output))))
            if type(module) is nn.Linear:
                linear[:] = [module, output, output._version]
            if module is self.model and linear and linear[1] is output and linear[2] == output._version:
                self._head = linear[0]

        with ExitStack() as stack:
            for module in self.model.modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks: it runs again
                stack.callback(module.register_forward_pre_hook(on_start).remove)
                stack.callback(module.register_forward_hook(on_end).remove)
            yield

    def check(self, inputs: Batch, index: int, layer_output: Batch, target: Target, score: torch.Tensor) -> None:
        """Replay an unchanged image; if its score differs from the recorded run, :meth:`scores` runs the whole model.

        A replay is not exact where an in-place operation modifies the output of a module below the layer, where such a
        module's output does not have one row per image, or where the caller's hooks change outputs.

        Args:
            inputs: as for :meth:`scores`; at least two rows.
            index: as for :meth:`scores`.
            layer_output: as for :meth:`scores`.
            target: as for :meth:`scores`.
            score: the target's score in the recorded run.
        """
        self._run_whole_model = self._run_whole_model or not self._is_exact()
        if not self._run_whole_model:
            tolerance = torch.finfo(score.dtype).eps ** 0.5 * (1 + score.abs())
            try:
                replayed = self._replayed(inputs, index, layer_output, target)
                self._run_whole_model = not bool(((replayed - score).abs() <= tolerance).all())
            except Exception:  # an error with another cause than the replay will be raised again by the whole model
                self._run_whole_model = True

    def scores(self, inputs: Batch, index: int, layer_output: Batch, target: Target) -> torch.Tensor:
        """Compute the target's scores for another output of the layer.

        Args:
            inputs: the image, once per row.
            index: its index in the recorded run.
            layer_output: output of the layer, with the same number of rows.
            target: the score to compute.

        Returns:
            (rows,) float32.
        """
        if not self._run_whole_model:
            return self._replayed(inputs, index, layer_output, target).float()
        rows, runs = len(next(tensors(layer_output))), count()

        def replace(_: int, output: Batch) -> Batch | None:
            return layer_output if next(runs) == self.run else None

        with forward_hooks([self.layer], replace):
            outputs = call_model(self.model, inputs)
        if next(runs) <= self.run:
            raise RuntimeError(f"{type(self.layer).__name__} did not run again with {rows} copies of an image")
        return target_scores([target] * rows, outputs).float()

    def _replayed(self, inputs: Batch, index: int, layer_output: Batch, target: Target) -> torch.Tensor:
        # A linear classifier needs to compute only the target's logit.
        category = target.category if self._head is not None and type(target) is ClassifierOutputTarget else None
        rows = len(next(tensors(layer_output)))
        with self._replaying(index, layer_output, rows, category):
            outputs = call_without_copies(self.model, inputs)
        return target_scores([target] * rows, outputs) if category is None else outputs[:, 0]

    def _is_exact(self) -> bool:
        """Whether all recorded tensors have one row per image and were not modified after their recording."""
        recorded = [
            (t, v) for run in self._below_runs[self.run] for t, v in zip(tensors(run.output), run.versions, strict=True)
        ]
        latest = {id(tensor): version for tensor, version in recorded}
        unchanged = all(tensor._version == latest[id(tensor)] for tensor, _ in recorded)
        return unchanged and all(tensor.ndim and len(tensor) == self.size for tensor, _ in recorded)

    @contextmanager
    def _replaying(self, index: int, layer_output: Batch, rows: int, category: int | None) -> Iterator[None]:
        """Let modules return recorded outputs, the layer ``layer_output``, and the classifier a single logit."""

        def repeated(output: torch.Tensor) -> torch.Tensor:
            one = output[index : index + 1]
            return one.clone() if rows == 1 else one.expand(rows, *one.shape[1:])

        def single_logit(features: torch.Tensor) -> torch.Tensor:
            head = cast(nn.Linear, self._head)
            chosen = slice(category, None if category == -1 else cast(int, category) + 1)
            return F.linear(features, head.weight[chosen], None if head.bias is None else head.bias[chosen])

        substitutes: dict[Module, list[Forward]] = {}
        for run in self._below_runs[self.run]:
            recorded = partial(map_tensors, repeated, run.output)
            substitutes.setdefault(run.module, []).append(lambda *_, recorded=recorded, **__: recorded())
        substitutes.setdefault(self.layer, []).append(lambda *_, **__: layer_output)
        if category is not None:
            substitutes.setdefault(cast(nn.Linear, self._head), []).append(single_logit)
        with ExitStack() as stack:
            for module, forwards in substitutes.items():
                own = vars(module).get("forward")
                module.forward = _forward_in_turn(module.forward, forwards)
                stack.callback(_restore_forward, module, own)
            yield
            if unused := next((m for m, forwards in substitutes.items() if forwards), None):
                raise RuntimeError(f"{type(unused).__name__} did not run again: its parent does not call it")


def _forward_in_turn(original: Forward, substitutes: list[Forward]) -> Forward:
    """A ``forward`` that uses the substitutes in turn, then the original; in this thread only."""
    thread = threading.get_ident()

    def forward(*arguments: Any, **keywords: Any) -> Batch:
        chosen = substitutes.pop(0) if substitutes and threading.get_ident() == thread else original
        return chosen(*arguments, **keywords)

    return forward


def _restore_forward(module: Module, own: Any) -> None:
    del module.__dict__["forward"]
    if own is not None:
        module.forward = own
