"""Implicit biases of a network: what each operation adds to a linear function of its input.

An operation is read where it is called, as a function, so that it does not matter which module calls it: subclasses of
batch norm that also activate, convolutions with computed weights, constants that are added by hand. With x the input of
an operation, J its Jacobian and z its output, the implicit bias is z - J x: constant for convolutions, linear layers,
batch norms in eval mode and additions of constants; equal to the bound where values are clamped; and, for norms that
divide by statistics of their own input, almost the output itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pytorch_grad_cam.utils.maps import broadcast_over_space

Bias = torch.Tensor | None  # broadcasts over the operation's output
Watch = Callable[[torch.Tensor, torch.Tensor, bool], None]


class ImplicitBiases(TorchFunctionMode):
    """While active, call ``watch(output, bias, channels_last)`` for each operation that adds something.

    Only operations whose output requires a gradient count: the caller lets nothing but the images require one.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        find = BIASES.get(function)
        if find is not None and output.requires_grad:
            with torch.no_grad():
                bias = find(output, *args, **kwargs)
            if bias is not None:
                self.watch(output, bias, _has_channels_last(function, args))
                if output._is_view() and output is not args[0]:
                    return output.clone()  # modified in place, a view leaves the graph together with its hooks
        return output


def _of_convolution(z: torch.Tensor, x: Any, weight: Any, bias: Bias = None, *_: Any, **__: Any) -> Bias:
    return None if bias is None else broadcast_over_space(bias.float()[None], z)


def _of_linear(z: torch.Tensor, x: Any, weight: Any, bias: Bias = None) -> Bias:
    return None if bias is None else bias.float()


def _of_batch_norm(z: torch.Tensor, x: torch.Tensor, mean: Bias, variance: Bias, **given: Any) -> Bias:
    weight, bias, eps = given["weight"], given["bias"], given["eps"]
    if given.get("training") or mean is None or variance is None:
        dims = [0, *range(2, x.ndim)]
        return _of_normalization(z, bias, x.float().var(dims, correction=0, keepdim=True), eps)
    slope = (variance + eps).rsqrt()
    if weight is not None:
        slope = slope * weight
    shift = -mean * slope
    return broadcast_over_space((shift if bias is None else shift + bias).float()[None], z)


def _of_instance_norm(z: torch.Tensor, x: torch.Tensor, **given: Any) -> Bias:
    if not given["use_input_stats"]:
        return _of_batch_norm(z, x, given.pop("running_mean"), given.pop("running_var"), **given)
    space = list(range(2, x.ndim))
    return _of_normalization(z, given["bias"], x.float().var(space, correction=0, keepdim=True), given["eps"])


def _of_group_norm(
    z: torch.Tensor, x: torch.Tensor, groups: int, weight: Bias = None, bias: Bias = None, eps: float = 1e-5
) -> Bias:
    variance = x.float().reshape(len(x), groups, -1).var(dim=2, correction=0)
    of_channels = variance.repeat_interleave(x.shape[1] // groups, dim=1)
    return _of_normalization(z, bias, broadcast_over_space(of_channels, z), eps)


def _of_layer_norm(
    z: torch.Tensor, x: torch.Tensor, shape: Sequence[int], weight: Bias = None, bias: Bias = None, eps: float = 1e-5
) -> Bias:
    variance = x.float().var(list(range(-len(shape), 0)), correction=0, keepdim=True)
    return _of_normalization(z, None, variance, eps, shift=0 if bias is None else bias.float())


def _of_rms_norm(
    z: torch.Tensor, x: torch.Tensor, shape: Sequence[int], weight: Bias = None, eps: float | None = None
) -> Bias:
    size = x.float().square().mean(list(range(-len(shape), 0)), keepdim=True)
    return _of_normalization(z, None, size, torch.finfo(x.dtype).eps if eps is None else eps)


def _of_normalization(z: torch.Tensor, bias: Bias, variance: torch.Tensor, eps: float, shift: Any = 0) -> torch.Tensor:
    """For z = s n + b with n = (x - mean) / sqrt(v + eps): J x is s n eps / (v + eps)."""
    if bias is not None:
        shift = broadcast_over_space(bias.float()[None], z)
    return (z.float() - shift) * (variance / (variance + eps)) + shift


def _of_clamp(z: torch.Tensor, x: Any, low: Any = None, high: Any = None, *_: Any, **named: Any) -> Bias:
    low = named.get("min", named.get("min_val", low))
    high = named.get("max", named.get("max_val", high))
    clamped = torch.zeros_like(z, dtype=torch.bool)
    for bound in (low, high):
        if bound is not None:
            clamped |= z == bound
    return torch.where(clamped, z.float(), 0.0)


def _of_hardtanh(z: torch.Tensor, x: Any, low: float = -1.0, high: float = 1.0, *_: Any, **named: Any) -> Bias:
    return _of_clamp(z, x, low, high, **named)


def _of_relu6(z: torch.Tensor, *_: Any, **__: Any) -> Bias:
    return _of_clamp(z, None, 0.0, 6.0)


def _of_sum(z: torch.Tensor, x: Any, other: Any, *_: Any, alpha: float = 1, **__: Any) -> Bias:
    return _of_constants(z, (x, 1), (other, alpha))


def _of_difference(z: torch.Tensor, x: Any, other: Any, *_: Any, alpha: float = 1, **__: Any) -> Bias:
    return _of_constants(z, (x, 1), (other, -alpha))


def _of_reversed_difference(z: torch.Tensor, x: Any, other: Any, *_: Any, alpha: float = 1, **__: Any) -> Bias:
    return _of_constants(z, (x, -alpha), (other, 1))


def _of_constants(z: torch.Tensor, *summands: tuple[Any, float]) -> Bias:
    """The summand that does not depend on the images, where the operation has one."""
    for value, factor in summands:
        if not (isinstance(value, torch.Tensor) and value.requires_grad):
            return torch.as_tensor(value, device=z.device).float() * factor
    return None


def _has_channels_last(function: Any, args: tuple) -> bool:
    """Linear layers, and norms over a single dimension, take channels as the last one."""
    return function == F.linear or (function in (F.layer_norm, F.rms_norm) and len(args[1]) == 1)


_TENSOR = torch.Tensor
BIASES: dict[Any, Callable[..., Bias]] = {
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], _of_convolution),
    **dict.fromkeys([F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d], _of_convolution),
    F.linear: _of_linear,
    F.batch_norm: _of_batch_norm,
    F.instance_norm: _of_instance_norm,
    F.group_norm: _of_group_norm,
    F.layer_norm: _of_layer_norm,
    F.rms_norm: _of_rms_norm,
    **dict.fromkeys([F.hardtanh, F.hardtanh_], _of_hardtanh),
    F.relu6: _of_relu6,
    **dict.fromkeys([torch.clamp, torch.clip, _TENSOR.clamp, _TENSOR.clamp_, _TENSOR.clip, _TENSOR.clip_], _of_clamp),
    **dict.fromkeys(
        [torch.add, _TENSOR.add, _TENSOR.add_, _TENSOR.__add__, _TENSOR.__radd__, _TENSOR.__iadd__], _of_sum
    ),
    **dict.fromkeys([torch.sub, _TENSOR.sub, _TENSOR.sub_, _TENSOR.__sub__, _TENSOR.__isub__], _of_difference),
    **dict.fromkeys([torch.rsub, _TENSOR.__rsub__], _of_reversed_difference),
}
