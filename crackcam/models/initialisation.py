"""Build models whose weights are read from a file, without drawing initial ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Functions of torch.nn.init too: what they call is not seen any more, once they are called from here.
DRAWS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
}


class ZerosForDraws(TorchFunctionMode):
    """Context in which random initial weights of this thread are zeros; the random generator is not asked for them.

    Drawing them takes longer than reading a file: several seconds for a large vision transformer.

    Example:
        >>> with ZerosForDraws():
        ...     float(nn.Linear(2, 2).weight.detach().abs().sum())
        0.0
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, unless it draws."""
        kwargs = kwargs or {}
        if func not in DRAWS:
            return func(*args, **kwargs)
        tensor: torch.Tensor = args[0] if args else kwargs["tensor"]
        with torch.no_grad():
            return tensor.zero_()
