"""Targets: which number of the model's output a map explains.

A target is any callable that takes the output for one image and returns a scalar tensor. The ready-made ones:

    a class                     ClassifierOutputTarget(281), ClassifierOutputSoftmaxTarget, ClassifierOutputReST
    one logit, yes or no        BinaryClassifierOutputTarget(1)
    a class against others      FinerWeightedTarget(281, [282, 285], alpha=1)
    a class within a region     SemanticSegmentationTarget(category, mask)
    boxes of a detector         FasterRCNNBoxScoreTarget(labels, boxes)
    whatever the model returns  RawScoresOutputTarget(), SoftmaxOutputTarget()

Those of classes also take a batch of outputs (N, K), and then return one number for each image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Target = Callable[[torch.Tensor], torch.Tensor]


class ClassifierOutputTarget:
    """The logit of one class.

    Args:
        category: index of the class in the last dimension of the output.
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """The logit: a scalar for one image's output (K,), (N,) for a batch (N, K)."""
        return model_output[..., self.category]

    def __repr__(self) -> str:
        return f"ClassifierOutputTarget({self.category})"


@dataclass(eq=False)
class ClassifierOutputSoftmaxTarget:
    """The probability of one class.

    Where the model is nearly sure, softmax is flat and its gradient vanishes: prefer a logit or
    :class:`ClassifierOutputReST` there.

    Attributes:
        category: index of the class in the last dimension of the output.
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """In [0, 1]: a scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        return model_output.softmax(dim=-1)[..., self.category]


@dataclass(eq=False)
class ClassifierOutputReST:
    """The logit of one class plus the logarithm of its probability: rises with both, and saturates with neither.

    Cai, CAMs as Shapley Value-based Explainers, 2025 (arXiv:2501.06261), residual softmax target.

    Attributes:
        category: index of the class in the last dimension of the output.
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        return (model_output + model_output.log_softmax(dim=-1))[..., self.category]


@dataclass(eq=False)
class BinaryClassifierOutputTarget:
    """One side of a model with a single logit.

    Attributes:
        category: 1 explains what raises the logit; anything else, what lowers it.
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """The logit or its negative, in the shape of ``model_output``."""
        return model_output if self.category == 1 else -model_output


@dataclass(eq=False)
class SoftmaxOutputTarget:
    """The probabilities of all classes, (..., K) as the output: for metrics; their sum is 1 and has no gradient."""

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        return model_output.softmax(dim=-1)


@dataclass(eq=False)
class RawScoresOutputTarget:
    """The output as it is, for models that return the explained number themselves, a similarity for example."""

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        return model_output


@dataclass(eq=False)
class SemanticSegmentationTarget:
    """The scores of one class, summed over the places of a mask.

    Attributes:
        category: index of the class.
        mask: (*spatial) array or tensor, bool or weights in [0, 1], of the spatial size of the model's output.
    """

    category: int
    mask: np.ndarray | torch.Tensor

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's scores (K, *spatial), (N,) for a batch (N, K, *spatial).

        Raises:
            ValueError: the mask has another spatial size than the scores.
        """
        mask = torch.as_tensor(self.mask).to(model_output)
        spatial = tuple(model_output.shape[-mask.ndim :])
        if mask.shape != spatial:
            raise ValueError(f"the mask is {tuple(mask.shape)}, but the model's output {spatial}: resize one of them")
        scores = model_output.select(-1 - mask.ndim, self.category)
        return (scores * mask).flatten(-mask.ndim).sum(dim=-1)


@dataclass(eq=False)
class FasterRCNNBoxScoreTarget:
    """How well a detector still finds given boxes: the sum of overlap and confidence over those it finds.

    A box counts as found where the detection that overlaps it most does so by more than ``iou_threshold`` and
    has its label.

    Attributes:
        labels: class index of each box.
        bounding_boxes: (left, top, right, bottom) of each, in pixels.
        iou_threshold: in [0, 1]; intersection over union that a detection must exceed.
    """

    labels: Sequence[int] | np.ndarray | torch.Tensor
    bounding_boxes: Sequence[Sequence[float] | np.ndarray | torch.Tensor] | np.ndarray | torch.Tensor
    iou_threshold: float = 0.5

    def __call__(self, model_outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A scalar that is differentiable even where nothing is found: then it is 0, and so are its gradients.

        Args:
            model_outputs: what a torchvision detector returns for one image: boxes (D, 4), labels (D) and scores (D).
        """
        from torchvision.ops import box_iou  # slow to import, and of no use to other targets

        boxes, scores = model_outputs["boxes"], model_outputs["scores"]
        if len(boxes) == 0:
            return boxes.sum() + scores.sum()
        wanted = boxes.new_tensor([[float(edge) for edge in box] for box in self.bounding_boxes]).reshape(-1, 4)
        labels = model_outputs["labels"].new_tensor([int(label) for label in self.labels])
        overlap, nearest = box_iou(wanted, boxes).max(dim=1)
        found = (overlap > self.iou_threshold) & (model_outputs["labels"][nearest] == labels)
        return (overlap + scores[nearest])[found].sum()


@dataclass(eq=False)
class FinerWeightedTarget:
    """What sets a class apart from classes like it: its logit less ``alpha`` times a mean of theirs.

    The mean is weighted by the probabilities of the comparison classes among themselves. These weights are
    constants, as the paper's are: the gradient is that of a difference of logits, and does not also reward
    evidence that merely shifts weight from one comparison class to another.

    Zhang et al., Finer-CAM, CVPR 2025 (arXiv:2501.11309), with weights in the place of its plain mean.

    Attributes:
        main_category: index of the class to explain.
        comparison_categories: indices of the classes to hold against it; none leaves the plain logit.
        alpha: strength of the comparison; 0 leaves the plain logit too.
    """

    main_category: int
    comparison_categories: Sequence[int]
    alpha: float

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        compared = model_output[..., list(self.comparison_categories)]
        weights = compared.detach().softmax(dim=-1)
        return model_output[..., self.main_category] - self.alpha * (weights * compared).sum(dim=-1)
