"""Layer outputs with one channel ablated per row, for Ablation-CAM.

:class:`~pytorch_grad_cam.AblationCAM` takes an :class:`AblationLayer` as ``ablation_layer`` where a layer's output is
not (N, C, H, W). It is not inserted into the model: it only makes the rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import ReshapeTransform, reshaped, tensor_below
from pytorch_grad_cam.batches import Batch, map_tensors, tensors
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class AblationLayer(torch.nn.Module):
    """Copies of one image's activations (N, C, H, W), each with one channel set to 0.

    Attributes:
        indices: the ablated channel of each row.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam import AblationLayer
        >>> layer = AblationLayer()
        >>> layer.set_next_batch(0, torch.ones(1, 3, 2, 2), num_channels_to_ablate=2)
        >>> layer.indices = [0, 2]
        >>> layer().sum(dim=(2, 3)).tolist()
        [[0.0, 4.0, 4.0], [4.0, 4.0, 0.0]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.indices: Any = np.zeros(0, np.int32)
        self.activations: Any = None

    def objectiveness_mask_from_svd(self, activations: np.ndarray, threshold: float = 0.01) -> np.ndarray:
        """Mask (H, W) bool where the first principal component of (C, H, W) exceeds a fraction of its maximum."""
        strength = principal_map(torch.as_tensor(activations)[None])[0].abs()
        strength = strength - strength.min()
        return (strength > threshold * strength.max()).numpy()

    def activations_to_be_ablated(self, activations: np.ndarray, ratio_channels_to_ablate: float = 1.0) -> np.ndarray:
        """Select the channels to ablate: those whose activations lie most within the first principal component.

        Args:
            activations: (C, H, W).
            ratio_channels_to_ablate: fraction of the channels, in (0, 1].

        Returns:
            Distinct channel indices, ascending, int32.
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
        """Select the image and the number of rows of the next call."""
        self.activations = repeat_item(activations, input_batch_index, num_channels_to_ablate)

    def forward(self, x: Any = None) -> Any:
        """The rows: (rows, C, H, W)."""
        self.activations[torch.arange(len(self.activations)), torch.as_tensor(self.indices).long()] = 0
        return self.activations


class AblationLayerVit(AblationLayer):
    """The same for tokens, (N, tokens, C): a channel is set to 0 in all tokens.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam import AblationLayerVit
        >>> layer = AblationLayerVit()
        >>> layer.set_next_batch(0, torch.ones(1, 2, 3), num_channels_to_ablate=1)
        >>> layer.indices = [1]
        >>> layer().tolist()
        [[[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]]
    """

    def forward(self, x: Any = None) -> torch.Tensor:
        channels_second = self.activations.transpose(1, -1)
        channels_second[torch.arange(len(channels_second)), torch.as_tensor(self.indices).long()] = 0
        return self.activations


class AblationLayerFasterRCNN(AblationLayer):
    """The same for a feature pyramid, a mapping of levels (N, C, H, W); channels are numbered across the levels.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam import AblationLayerFasterRCNN
        >>> layer = AblationLayerFasterRCNN()
        >>> pyramid = {"0": torch.ones(1, 2, 1, 1), "1": torch.ones(1, 2, 1, 1)}
        >>> layer.set_next_batch(0, pyramid, num_channels_to_ablate=1)
        >>> layer.indices = [3]  # the second channel of the second level
        >>> {name: level.flatten().tolist() for name, level in layer().items()}
        {'0': [1.0, 1.0], '1': [1.0, 0.0]}
    """

    def set_next_batch(self, input_batch_index: int, activations: Mapping, num_channels_to_ablate: int) -> None:
        self.activations = map_tensors(
            lambda level: repeat_item(level, input_batch_index, num_channels_to_ablate), activations
        )

    def forward(self, x: Any = None) -> Any:
        rows = torch.arange(len(self.indices))
        channels = torch.as_tensor(self.indices).long()
        for level in self.activations.values():
            here = (channels >= 0) & (channels < level.shape[1])
            level[rows[here], channels[here]] = 0
            channels = channels - level.shape[1]
        return self.activations


class AblatedRows:
    """Copies of a layer's output for one image, each with one channel set to 0.

    The memory is reused from batch to batch, and only the ablated channels are written again: filling fresh memory
    takes longer than running the layers above.

    Args:
        layer_output: (N, ...) tensor, or tensors in a structure: the one that the reshape_transform takes is ablated.
        reshape_transform: turns it into (N, C, *spatial), as a view.
        rows: maximum number of rows.
    """

    def __init__(self, layer_output: Batch, reshape_transform: ReshapeTransform | None, rows: int) -> None:
        self.layer_output, self.reshape_transform = layer_output, reshape_transform
        self.size = len(next(tensors(layer_output)))
        self._rows = map_tensors(
            lambda output: allocate_rows(output, rows) if output.ndim and len(output) == self.size else output,
            layer_output,
        )
        shown = tensor_below(self._rows, self._shaped(self._rows))
        if shown is None:
            raise ValueError(
                "AblationCAM sets channels to 0 through the reshape_transform, which must return a view; "
                "or pass an ablation_layer"
            )
        self._first = shown
        self._filled: tuple[int, int] | None = None  # image index, and version of the memory after our last write
        self._ablated = torch.zeros(0, dtype=torch.long)

    def without_channels(self, index: int, channels: torch.Tensor) -> Batch:
        """One row for each channel, in which that channel is 0. Valid until the next call.

        Args:
            index: index of the image in the batch.
            channels: channel indices, (rows,) int64.

        Raises:
            ValueError: the ``reshape_transform`` does not return a view.
        """
        outputs = list(tensors(self.layer_output))
        if self._filled == (index, self._first._version):
            self._write(self._ablated, self._intact(index)[self._ablated])
        else:  # another image, or the layers above have modified the memory in place
            for rows, output in zip(tensors(self._rows), outputs, strict=True):
                if rows is not output:
                    rows.copy_(output[index].expand_as(rows))
        self._write(channels, 0)
        self._ablated = channels
        self._filled = (index, self._first._version)
        return map_tensors(
            lambda rows: rows if any(rows is output for output in outputs) else rows[: len(channels)], self._rows
        )

    def _intact(self, index: int) -> torch.Tensor:
        item = map_tensors(lambda t: t[index : index + 1] if t.ndim and len(t) == self.size else t, self.layer_output)
        return self._shaped(item)[0]

    def _write(self, channels: torch.Tensor, values: torch.Tensor | int) -> None:
        self._shaped(self._rows)[torch.arange(len(channels)), channels] = values

    def _shaped(self, output: Batch) -> torch.Tensor:
        return reshaped(output, self.reshape_transform)


def repeat_item(activations: torch.Tensor, index: int, rows: int) -> torch.Tensor:
    """Copy one image's activations into ``rows`` rows, in the memory format of the original."""
    copies = allocate_rows(activations, rows)
    return copies.copy_(activations[index])


def allocate_rows(activations: torch.Tensor, rows: int) -> torch.Tensor:
    """Allocate uninitialised memory for ``rows`` rows, in the memory format of the original."""
    one = torch.empty_like(activations[0])  # dense, whatever the stride of the batch dimension is
    return torch.empty_strided((rows, *one.shape), (one.numel(), *one.stride()), dtype=one.dtype, device=one.device)
