"""Targets: which number of the model's output a map explains.

A target is any callable that takes the output for one picture and returns a scalar tensor.
"""

from collections.abc import Callable, Sequence

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
        """The logit: a scalar for one picture's output (K,), (N,) for a batch (N, K)."""
        return model_output[..., self.category]

    def __repr__(self) -> str:
        return f"ClassifierOutputTarget({self.category})"


def resolve_targets(targets: Sequence[Target | int] | torch.Tensor | None, outputs: torch.Tensor) -> list[Target]:
    """One target for each picture.

    Args:
        targets: None (the class that the model predicts for each picture), or one target or class index
            for each picture.
        outputs: (N, K) model output.

    Raises:
        ValueError: the number of targets is not the number of pictures; or None where the output is not
            one score for each class.
    """
    if targets is None:
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            raise ValueError("targets=None needs a model output of shape (pictures, classes); pass targets")
        targets = outputs.argmax(dim=-1).tolist()
    if len(targets) != len(outputs):
        raise ValueError(f"{len(targets)} targets for {len(outputs)} pictures: pass one for each picture")
    return [target if callable(target) else ClassifierOutputTarget(int(target)) for target in targets]


def target_scores(targets: Sequence[Target], outputs: torch.Tensor) -> torch.Tensor:
    """The explained number of each picture: (N,), differentiable where the outputs are."""
    return torch.stack([target(output) for target, output in zip(targets, outputs, strict=True)])
