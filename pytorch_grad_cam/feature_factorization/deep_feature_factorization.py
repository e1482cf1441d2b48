"""Deep Feature Factorization: the activations of a layer as a few concepts, and where in the pictures each occurs.

    picture = run_dff_on_image(model, model.layer4, model.fc, Image.open("both.png"), tensor, n_components=5)

Non-negative matrix factorization writes the places' activations as sums of a few directions in channel space, the
concepts. How much of a concept a place holds makes a map; what the classifier says to a concept gives it a name.

Collins, Achanta and Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018 (arXiv:1806.10206).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from pytorch_grad_cam.activations_and_gradients import (
    ActivationsAndGradients,
    Module,
    ReshapeTransform,
    explained,
    plain,
)
from pytorch_grad_cam.utils.image import (
    create_labels_legend,
    scale_accross_batch_and_channels,
    show_factorization_on_image,
)


def dff(activations: np.ndarray, n_components: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Factorize activations.

    Each channel is lifted by its minimum first, so that signed activations are possible too. The start is drawn with a
    fixed seed: the same activations give the same concepts. Where 200 iterations were not enough for the last digits,
    scikit-learn says so in a ConvergenceWarning.

    Args:
        activations: (N, C, *spatial); NaN counts as 0.
        n_components: number of concepts.

    Returns:
        The concepts (C, n_components) in the unit of the activations, and how much of each is at each place,
        (N, n_components, *spatial), >= 0.
    """
    from sklearn.decomposition import NMF  # slow to import, and only of use here

    activations = np.where(np.isnan(activations), 0, activations)
    pictures, channels, *spatial = activations.shape
    matrix = activations.swapaxes(0, 1).reshape(channels, -1)
    offset = matrix.min(axis=1, keepdims=True)
    factorization = NMF(n_components, init="random", random_state=0)
    concepts = factorization.fit_transform(matrix - offset) + offset
    amounts = factorization.components_.reshape(n_components, pictures, *spatial)
    return concepts, amounts.swapaxes(0, 1)


class DeepFeatureFactorization:
    """The concepts of a model's layer, over a batch of pictures together.

    Args:
        model: runs in eval mode, without gradients, and is given back as it was.
        target_layer: module of the model whose output is (N, C, *spatial).
        reshape_transform: brings another layer output into that shape (transformers).
        computation_on_concepts: called with the concepts (n_components, C) on the model's device; the classifier that
            follows the layer, for example.
    """

    def __init__(
        self,
        model: Module,
        target_layer: Module,
        reshape_transform: ReshapeTransform | None = None,
        computation_on_concepts: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.model = model
        self.computation_on_concepts = computation_on_concepts
        self.activations_and_grads = ActivationsAndGradients(plain(model), [target_layer], reshape_transform)

    def __call__(self, input_tensor: torch.Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """Factorize the activations of these pictures.

        Args:
            input_tensor: (N, C, *spatial) batch; it is moved to the model's device.
            n_components: number of concepts.

        Returns:
            The concepts (C, n_components); a list with the maps of each picture, (n_components, *spatial) float32 at
            the size of the input, each stretched to [0, 1]; and, where there is a ``computation_on_concepts``, what
            it returned, as an array.
        """
        recorder, compute = self.activations_and_grads, self.computation_on_concepts
        like = next(recorder.model.parameters(), input_tensor)
        head = compute if isinstance(compute, Module) else recorder.model
        with explained(recorder.model), explained(head), torch.no_grad():
            recorder(input_tensor.to(like.device), with_graph=False)
            (activations,) = recorder.activations
            recorder.clear()
            concepts, amounts = dff(activations.cpu().numpy(), n_components)
            maps = list(scale_accross_batch_and_channels(amounts, tuple(input_tensor.shape[:1:-1])))
            if compute is None:
                return concepts, maps
            computed = compute(torch.from_numpy(concepts.T).to(like))
            # numpy knows no bfloat16
            return concepts, maps, (computed.float() if computed.is_floating_point() else computed).cpu().numpy()

    def __enter__(self) -> "DeepFeatureFactorization":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to undo: hooks live during a call only. Errors pass through."""


def run_dff_on_image(
    model: Module,
    target_layer: Module,
    classifier: Callable[[torch.Tensor], torch.Tensor],
    img_pil: Image.Image,
    img_tensor: torch.Tensor,
    reshape_transform: ReshapeTransform | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> np.ndarray:
    """A picture, the concepts that a layer sees in it, and a legend with the classes that each speaks for.

    Args:
        model: names its classes in ``model.config.id2label``, as those of transformers do; otherwise their numbers
            are shown.
        target_layer: module of the model whose output is (N, C, H, W).
        classifier: maps concepts (n, C) to logits (n, K): the part of the model after its pooling.
        img_pil: the picture as the network sees it.
        img_tensor: (C, H, W), the same as network input.
        reshape_transform: brings another layer output into the shape (N, C, H, W).
        n_components: number of concepts.
        top_k: classes to a concept in the legend.

    Returns:
        (H, 3 W, 3) uint8, RGB.

    Raises:
        ValueError: ``img_pil`` and ``img_tensor`` differ in size.
    """
    picture = np.asarray(img_pil.convert("RGB"))
    if picture.shape[:2] != img_tensor.shape[1:]:
        raise ValueError(
            f"img_pil is {picture.shape[:2]} (rows, columns), img_tensor {tuple(img_tensor.shape[1:])}: "
            "pass the picture cut and resized as the tensor was"
        )
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, (maps,), logits = factorization(img_tensor[None], n_components)
    probabilities = torch.from_numpy(logits).softmax(dim=-1).numpy()
    names = getattr(getattr(model, "config", None), "id2label", None) or [f"class {k}" for k in range(logits.shape[1])]
    legend = create_labels_legend(probabilities, names, top_k)
    overlay = show_factorization_on_image(picture / 255, maps, image_weight=0.3, concept_labels=legend)
    return np.hstack((picture, overlay))
