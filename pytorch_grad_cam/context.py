"""State of a model, and of torch, during an explanation, and its restoration afterwards."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.overrides import TorchFunctionMode

from pytorch_grad_cam.batches import map_tensors

Module = torch.nn.Module
Result = TypeVar("Result")

_locks: WeakKeyDictionary[Module, threading.RLock] = WeakKeyDictionary()
_making_locks = threading.Lock()


# -- train and eval mode ------------------------------------------------------------------------------


@contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """Put a model into eval mode, and afterwards restore the mode of each module.

    ``train()`` and ``eval()`` may do more than set a flag: merge low-rank weights, swap averaged weights, discard
    caches. They are called once on the outermost modules in train mode, and later again on these; modules in eval mode
    are not touched. Modules that disregard ``eval()`` get the flag only.

    Raises:
        TypeError: a module cannot switch to eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    switched = list(_outermost_in_train_mode(model, set()))
    weights = [
        (weight, weight.detach().clone())
        for module, _ in modes
        if switched and overrides_train(module)
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]
    entered = []
    try:
        for module in switched:
            _switch(module, False)
            entered.append(module)
        for module, _ in modes:
            module.training = False  # where train() is overridden, it may have done nothing
        yield
    finally:
        for module in entered:
            _switch(module, True)
        for module, mode in modes:
            if module.training != mode and overrides_train(module):
                _switch(module, mode)
        for module, mode in modes:
            module.training = mode
        for weight, value in weights:  # merged weights, taken apart again, are rounded
            if not torch.equal(weight, value):
                weight.data.copy_(value)


def overrides_train(module: Module) -> bool:
    """Whether ``train()`` may do more than set flags."""
    return type(module).train is not Module.train or "train" in vars(module)


def _outermost_in_train_mode(module: Module, seen: set[Module]) -> Iterator[Module]:
    if module in seen:
        return
    seen.add(module)
    if module.training:
        yield module
    else:
        for child in module.children():
            yield from _outermost_in_train_mode(child, seen)


def _switch(module: Module, mode: bool) -> None:
    try:
        module.train() if mode else module.eval()
    except NotImplementedError as error:
        raise TypeError(
            f"{type(module).__name__} cannot switch to eval mode: "
            "explain the module that was exported or converted, not the result"
        ) from error


# -- everything else ----------------------------------------------------------------------------------


@contextmanager
def explanation_context(model: Module) -> Iterator[None]:
    """Prepare a model for an explanation, and restore everything afterwards.

    Eval mode is on, inference mode is off, and two threads that explain the same model take turns. The states of the
    random number generators are restored, for models that draw random numbers in eval mode too. The autocast cache is
    cleared: weights cast during the explanation, mostly without autograd, must not be reused by the caller.
    """
    with _making_locks:
        lock = _locks.setdefault(model, threading.RLock())
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.callback(torch.clear_autocast_cache)
        for around in (lock, torch.random.fork_rng(devices), torch.inference_mode(False), evaluation_mode(model)):
            stack.enter_context(around)
        with _visible_modules:
            yield


class _VisibleModules:
    """Let all modules run as Python code, so that hooks see them.

    Code compiled by ``torch.compile`` runs uncompiled, and transformer layers call their modules instead of one fused
    operation. Both settings are global: the last thread to leave restores them.
    """

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self.users = 0
        self.stance: Any = None
        self.fused_attention = True

    def __enter__(self) -> None:
        with self.changing:
            self.users += 1
            if self.users == 1:
                self.fused_attention = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            if self.stance is None and "torch._dynamo" in sys.modules:  # otherwise nothing was compiled
                self.stance = torch.compiler.set_stance("force_eager")

    def __exit__(self, *exception: object) -> None:
        with self.changing:
            self.users -= 1
            if self.users > 0:
                return
            torch.backends.mha.set_fastpath_enabled(self.fused_attention)
            if self.stance is not None:
                self.stance.__exit__(None, None, None)
                self.stance = None


_visible_modules = _VisibleModules()


# -- caches of a model --------------------------------------------------------------------------------


def with_usable_caches(compute: Callable[[], Result]) -> Result:
    """Return ``compute()``, also where a model uses tensors made in inference mode, such as cached positions.

    Autograd cannot save such tensors. Where the computation fails, it runs again with a copy of each.

    Raises:
        RuntimeError: as raised by ``compute``, if it fails again.
    """
    try:
        return compute()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        try:
            with _CopiedInferenceTensors():
                return compute()
        except RuntimeError:
            raise error from None


class _CopiedInferenceTensors(TorchFunctionMode):
    """While active, each operation gets copies of the inference tensors among its arguments."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = map_tensors(lambda t: t.clone() if t.is_inference() else t, (args, kwargs or {}))
        return function(*args, **kwargs)
