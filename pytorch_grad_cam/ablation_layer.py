"""What is switched off in an ablation: a layer's output, one channel less in each row.

:class:`~pytorch_grad_cam.AblationCAM` takes one of these as ``ablation_layer`` where a layer's output is not
(N, C, H, W). Nothing is put into the model's place: the layer only makes the rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import ReshapeTransform
from pytorch_grad_cam.batches import Batch, each_tensor, tensors
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class AblationLayer(torch.nn.Module):
    """Rows of one picture's activations (N, C, H, W), each without one of its channels: that is set to 0.

    Attributes:
        indices: the channel that is off in each row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.indices: Any = np.zeros(0, np.int32)
        self.activations: Any = None

    def objectiveness_mask_from_svd(self, activations: np.ndarray, threshold: float = 0.01) -> np.ndarray:
        """Places (H, W) bool where the first principal component of activations (C, H, W) exceeds a share of it."""
        strength = principal_map(torch.as_tensor(activations)[None])[0].abs()
        strength = strength - strength.min()
        return (strength > threshold * strength.max()).numpy()

    def activations_to_be_ablated(self, activations: np.ndarray, ratio_channels_to_ablate: float = 1.0) -> np.ndarray:
        """Channels worth a run: those whose activations (C, H, W) lie most inside the principal component's places.

        Args:
            ratio_channels_to_ablate: share of the channels, in (0, 1].

        Returns:
            Different channel indices, int32.
        """
        self.indices = np.arange(len(activations), dtype=np.int32)
        if ratio_channels_to_ablate < 1:
            mask = self.objectiveness_mask_from_svd(activations)
            strength = np.abs(activations).reshape(len(activations), -1)
            total = strength.sum(axis=1)
            inside = (strength * mask.ravel()).sum(axis=1) / np.where(total > 0, total, 1)
            count = max(1, round(ratio_channels_to_ablate * len(activations)))
            self.indices = np.sort(np.argsort(-inside, kind="stable")[:count]).astype(np.int32)
        return self.indices

    def set_next_batch(self, input_batch_index: int, activations: Any, num_channels_to_ablate: int) -> None:
        """Choose the picture, and how many rows the next call makes of it."""
        self.activations = rows_of(activations, input_batch_index, num_channels_to_ablate)

    def forward(self, x: Any = None) -> Any:
        """The rows: (rows, C, H, W)."""
        self.activations[torch.arange(len(self.activations)), torch.as_tensor(self.indices).long()] = 0
        return self.activations


class AblationLayerVit(AblationLayer):
    """The same for tokens, (N, tokens, C): a channel is off in all tokens."""

    def forward(self, x: Any = None) -> torch.Tensor:
        last = self.activations.transpose(1, -1)
        last[torch.arange(len(last)), torch.as_tensor(self.indices).long()] = 0
        return self.activations


class AblationLayerFasterRCNN(AblationLayer):
    """The same for a feature pyramid, a mapping of levels (N, C, H, W): channels are counted from level to level."""

    def set_next_batch(self, input_batch_index: int, activations: Mapping, num_channels_to_ablate: int) -> None:
        self.activations = each_tensor(
            lambda level: rows_of(level, input_batch_index, num_channels_to_ablate), activations
        )

    def forward(self, x: Any = None) -> Any:
        rows = torch.arange(len(self.indices))
        left = torch.as_tensor(self.indices).long()
        for level in self.activations.values():
            here = (left >= 0) & (left < level.shape[1])
            level[rows[here], left[here]] = 0
            left = left - level.shape[1]
        return self.activations


class AblatedRows:
    """A layer's output for one picture in many rows, each without a channel.

    The memory is used again from batch to batch, and only the channels that were off are written again: filling fresh
    memory takes longer than the layers above it.

    Args:
        layer_output: (N, ...) tensor, or tensors in a structure whose first one is ablated.
        reshape_transform: makes (N, C, *spatial) of it, as a view.
        rows: most rows at a time.
    """

    def __init__(self, layer_output: Batch, reshape_transform: ReshapeTransform | None, rows: int) -> None:
        self.layer_output, self.reshape_transform = layer_output, reshape_transform
        size = len(next(tensors(layer_output)))
        self._rows = each_tensor(
            lambda output: empty_rows(output, rows) if output.ndim and len(output) == size else output, layer_output
        )
        self._first = next(tensors(self._rows))
        self._filled: tuple[int, int] | None = None  # picture, and version of the memory after our last write
        self._off = torch.zeros(0, dtype=torch.long)

    def without(self, picture: int, channels: torch.Tensor) -> Batch:
        """One row for each channel, which is 0 in it; good until the next call.

        Raises:
            ValueError: the ``reshape_transform`` does not return a view.
        """
        outputs = list(tensors(self.layer_output))
        if self._filled == (picture, self._first._version):
            self._switch(self._off, self._shaped(outputs[0][picture : picture + 1])[0, self._off])
        else:  # another picture, or the layers above worked in place
            for rows, output in zip(tensors(self._rows), outputs, strict=True):
                if rows is not output:
                    rows.copy_(output[picture].expand_as(rows))
        self._switch(channels, 0)
        self._off = channels
        self._filled = (picture, self._first._version)
        return each_tensor(
            lambda rows: rows if any(rows is output for output in outputs) else rows[: len(channels)], self._rows
        )

    def _switch(self, channels: torch.Tensor, values: torch.Tensor | int) -> None:
        shaped = self._shaped(self._first)
        if shaped.untyped_storage().data_ptr() != self._first.untyped_storage().data_ptr():
            raise ValueError(
                "AblationCAM switches channels off through the reshape_transform, which must return a view; "
                "or pass an ablation_layer"
            )
        shaped[torch.arange(len(channels)), channels] = values

    def _shaped(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.reshape_transform is None else self.reshape_transform(tensor)


def rows_of(activations: torch.Tensor, picture: int, rows: int) -> torch.Tensor:
    """One picture's activations, that many times, in the memory format that they have."""
    copies = empty_rows(activations, rows)
    return copies.copy_(activations[picture])


def empty_rows(activations: torch.Tensor, rows: int) -> torch.Tensor:
    """Memory for that many rows, in the same format."""
    one = torch.empty_like(activations[0])  # dense, whatever the step from picture to picture is
    return torch.empty_strided((rows, *one.shape), (one.numel(), *one.stride()), dtype=one.dtype, device=one.device)
