"""Targets: the scalar of the model's output that a heatmap explains.

A target is any callable that takes the output for one image and returns a scalar tensor. Where the model returns a
structure (tuple, list, mapping, dataclass), it gets that structure with one row of each tensor. Predefined targets, and
subclasses of :class:`ScoresTarget`, get the scores in it:

    a class                     ClassifierOutputTarget(281), ClassifierOutputSoftmaxTarget, ClassifierOutputReST
    one logit, yes or no        BinaryClassifierOutputTarget(1)
    a class against others      FinerWeightedTarget(281, [282, 285], alpha=1)
    a class within a region     SemanticSegmentationTarget(category, mask)
    boxes of a detector         FasterRCNNBoxScoreTarget(labels, boxes)
    the model's output itself   RawScoresOutputTarget(), SoftmaxOutputTarget()

Targets of classes also accept a batch of outputs (N, K), and then return one number per image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Target = Callable[[torch.Tensor], torch.Tensor]


class ScoresTarget:
    """Base class of targets that explain a model's scores; any other callable gets the model's whole output.

    Examples:
        >>> from pytorch_grad_cam.utils.model_targets import ScoresTarget
        >>> class Margin(ScoresTarget):
        ...     def __call__(self, model_output):
        ...         return model_output[0] - model_output[1]
    """

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ClassTarget(ScoresTarget):
    """Base class of targets with a class index: the scores of an image are (K,).

    Examples:
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, ClassTarget
        >>> isinstance(ClassifierOutputTarget(2), ClassTarget)
        True
    """


def class_score(scores: torch.Tensor, category: int) -> torch.Tensor:
    """Select a class from the last dimension of the scores of an image (K,) or of a batch (N, K).

    Raises:
        IndexError: there is no such class.
        ValueError: the scores have more dimensions.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import class_score
        >>> class_score(torch.tensor([1.0, 2.0, 5.0]), 2).item()
        5.0
    """
    if scores.ndim > 2:
        raise ValueError(
            f"a class index needs scores of shape (images, classes), not {tuple(scores.shape)}: "
            "use SemanticSegmentationTarget(category, mask), or a callable that returns one number"
        )
    scores = scores[None] if scores.ndim == 0 else scores
    return scores[..., require_class(scores, category)]


def require_class(scores: torch.Tensor, category: int) -> int:
    """Return the class index if it is one of the scores' last dimension.

    Raises:
        IndexError: there is no such class.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import require_class
        >>> require_class(torch.tensor([1.0, 2.0, 5.0]), 2)
        2
    """
    count = scores.shape[-1]
    if not -count <= category < count:
        raise IndexError(f"there is no class {category}: the model has {count} classes, 0 to {count - 1}")
    return category


class ClassifierOutputTarget(ClassTarget):
    """The logit of one class.

    Args:
        category: index of the class in the last dimension of the output.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        >>> ClassifierOutputTarget(2)(torch.tensor([1.0, 2.0, 5.0])).item()
        5.0
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """The logit: a scalar for one image's output (K,), (N,) for a batch (N, K)."""
        return class_score(model_output, self.category)

    def __repr__(self) -> str:
        return f"ClassifierOutputTarget({self.category})"


@dataclass(eq=False)
class ClassifierOutputSoftmaxTarget(ClassTarget):
    """The probability of one class.

    The softmax saturates and its gradient vanishes where the model is almost certain: use a logit or
    :class:`ClassifierOutputReST` there.

    Attributes:
        category: index of the class in the last dimension of the output.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
        >>> ClassifierOutputSoftmaxTarget(0)(torch.tensor([3.0, 3.0])).item()
        0.5
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """In [0, 1]: a scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        return class_score(model_output.softmax(dim=-1), self.category)


@dataclass(eq=False)
class ClassifierOutputReST(ClassTarget):
    """The logit of one class plus the logarithm of its probability: increases with both, and does not saturate.

    Cai, CAMs as Shapley Value-based Explainers, 2025 (arXiv:2501.06261), residual softmax target.

    Attributes:
        category: index of the class in the last dimension of the output.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
        >>> round(ClassifierOutputReST(0)(torch.tensor([3.0, 3.0])).item(), 4)  # 3 + log(0.5)
        2.3069
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        return class_score(model_output + model_output.log_softmax(dim=-1), self.category)


@dataclass(eq=False)
class BinaryClassifierOutputTarget(ScoresTarget):
    """The positive or the negative class of a model with a single logit.

    Attributes:
        category: 1 explains the positive class (evidence that raises the logit), any other value the negative one.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget
        >>> BinaryClassifierOutputTarget(0)(torch.tensor([2.5])).tolist()
        [-2.5]
    """

    category: int

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """The logit or its negative, in the shape of ``model_output``."""
        return model_output if self.category == 1 else -model_output


@dataclass(eq=False)
class SoftmaxOutputTarget(ScoresTarget):
    """The probabilities of all classes, (..., K) as the output. For metrics: their sum is 1 and has no gradient.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import SoftmaxOutputTarget
        >>> SoftmaxOutputTarget()(torch.tensor([3.0, 3.0])).tolist()
        [0.5, 0.5]
    """

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        return model_output.softmax(dim=-1)


@dataclass(eq=False)
class RawScoresOutputTarget(ScoresTarget):
    """The model's output itself, for models that return the score to explain, for example a similarity.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget
        >>> RawScoresOutputTarget()(torch.tensor([0.9])).shape
        torch.Size([1])
    """

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        return model_output


@dataclass(eq=False)
class SemanticSegmentationTarget(ScoresTarget):
    """The scores of one class, summed over the pixels of a mask.

    Vinogradova et al., Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping, AAAI
    2020 (arXiv:2002.11434).

    Attributes:
        category: index of the class.
        mask: (*spatial) array or tensor, bool or weights in [0, 1], of the spatial size of the model's output.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
        >>> mask = torch.tensor([[True, False], [False, True]])
        >>> SemanticSegmentationTarget(1, mask)(torch.arange(8.0).reshape(2, 2, 2)).item()  # 4 + 7
        11.0
    """

    category: int
    mask: np.ndarray | torch.Tensor

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's scores (K, *spatial), (N,) for a batch (N, K, *spatial).

        Raises:
            ValueError: mask and scores differ in spatial size.
        """
        mask = torch.as_tensor(self.mask).to(model_output)
        spatial = tuple(model_output.shape[-mask.ndim :])
        if mask.shape != spatial:
            raise ValueError(f"the mask has size {tuple(mask.shape)}, the model's output {spatial}: resize one of them")
        scores = model_output.select(-1 - mask.ndim, self.category)
        return (scores * mask).flatten(-mask.ndim).sum(dim=-1)


@dataclass(eq=False)
class FasterRCNNBoxScoreTarget:
    """Sum of overlap and confidence over the given boxes that a detector finds again.

    A box is found where the detection with the largest overlap has the box's label and an intersection over union of
    more than ``iou_threshold``.

    Attributes:
        labels: class index of each box.
        bounding_boxes: (left, top, right, bottom) of each box, in pixels.
        iou_threshold: in [0, 1]; intersection over union that a detection must exceed.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
        >>> detections = {"boxes": torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "labels": torch.tensor([1])}
        >>> detections["scores"] = torch.tensor([0.5])
        >>> target = FasterRCNNBoxScoreTarget(labels=[1], bounding_boxes=[[0, 0, 2, 2]])
        >>> target(detections).item()  # overlap 1, score 0.5
        1.5
    """

    labels: Sequence[int] | np.ndarray | torch.Tensor
    bounding_boxes: Sequence[Sequence[float] | np.ndarray | torch.Tensor] | np.ndarray | torch.Tensor
    iou_threshold: float = 0.5

    def __call__(self, model_outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A scalar that is differentiable even where no box is found: then it is 0, and so are its gradients.

        Args:
            model_outputs: output of a torchvision detector for one image: boxes (D, 4), labels (D) and scores (D).
        """
        from torchvision.ops import box_iou  # slow to import, and not needed by other targets

        boxes, scores = model_outputs["boxes"], model_outputs["scores"]
        if len(boxes) == 0:
            return boxes.sum() + scores.sum()
        given = boxes.new_tensor([[float(edge) for edge in box] for box in self.bounding_boxes]).reshape(-1, 4)
        labels = model_outputs["labels"].new_tensor([int(label) for label in self.labels])
        overlap, nearest = box_iou(given, boxes).max(dim=1)
        found = (overlap > self.iou_threshold) & (model_outputs["labels"][nearest] == labels)
        return (overlap + scores[nearest])[found].sum()


@dataclass(eq=False)
class FinerWeightedTarget(ClassTarget):
    """Difference between a class and similar classes: its logit minus ``alpha`` times a weighted mean of theirs.

    The weights are the softmax over the comparison classes' logits. They are constants, as in the paper: the gradient
    is that of a difference of logits, and does not also reward evidence that only shifts weight from one comparison
    class to another.

    Zhang et al., Finer-CAM, CVPR 2025 (arXiv:2501.11309), with weights in place of the plain mean.

    Attributes:
        main_category: index of the class to explain.
        comparison_categories: indices of the classes to compare with; empty: the plain logit.
        alpha: strength of the comparison; 0: the plain logit.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
        >>> FinerWeightedTarget(0, [1, 2], alpha=0.5)(torch.tensor([5.0, 2.0, 2.0])).item()
        4.0
    """

    main_category: int
    comparison_categories: Sequence[int]
    alpha: float

    def __call__(self, model_output: torch.Tensor) -> torch.Tensor:
        """A scalar for one image's logits (K,), (N,) for a batch (N, K)."""
        compared = model_output[..., list(self.comparison_categories)]
        weights = compared.detach().softmax(dim=-1)
        return class_score(model_output, self.main_category) - self.alpha * (weights * compared).sum(dim=-1)
