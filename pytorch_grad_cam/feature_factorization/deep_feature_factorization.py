"""Deep Feature Factorization: a layer's activations as a few concepts, and a map of each concept.

    figure = run_dff_on_image(model, model.layer4, model.fc, Image.open("both.png"), tensor, n_components=5)

Non-negative matrix factorisation approximates the activations at each position by a sum of a few directions in channel
space, the concepts. The amount of a concept at each position is a map; the classifier's scores of a concept name it.

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
    unwrap,
)
from pytorch_grad_cam.batches import prepare
from pytorch_grad_cam.context import explanation_context, with_usable_caches
from pytorch_grad_cam.utils.image import (
    create_labels_legend,
    scale_accross_batch_and_channels,
    show_factorization_on_image,
)


def dff(activations: np.ndarray, n_components: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Factorise activations into concepts.

    The minimum of each channel is subtracted first, so that signed activations are possible too. The initialisation has
    a fixed seed: the same activations give the same concepts. scikit-learn issues a ConvergenceWarning where 200
    iterations do not converge.

    Args:
        activations: (N, C, *spatial); NaN counts as 0.
        n_components: number of concepts.

    Returns:
        The concepts (C, n_components) in the unit of the activations, and the amount of each at each position,
        (N, n_components, *spatial), >= 0.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
        >>> concepts, amounts = dff(np.random.default_rng(0).random((2, 6, 4, 5)), n_components=1)
        >>> concepts.shape, amounts.shape
        ((6, 1), (2, 1, 4, 5))
    """
    from sklearn.decomposition import NMF  # slow to import, and needed only here

    activations = np.where(np.isnan(activations), 0, activations)
    images, channels, *spatial = activations.shape
    matrix = activations.swapaxes(0, 1).reshape(channels, -1)
    offset = matrix.min(axis=1, keepdims=True)
    factorization = NMF(n_components, init="random", random_state=0)
    concepts = factorization.fit_transform(matrix - offset) + offset
    amounts = factorization.components_.reshape(n_components, images, *spatial)
    return concepts, amounts.swapaxes(0, 1)


class DeepFeatureFactorization:
    """Factorise the activations of a model's layer over a batch of images.

    Collins, Achanta and Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018 (arXiv:1806.10206).

    Args:
        model: runs in eval mode, without gradients; its previous mode is restored.
        target_layer: module of the model whose output is (N, C, *spatial).
        reshape_transform: brings another layer output into that shape (transformers).
        computation_on_concepts: called with the concepts (n_components, C) on the model's device; for example the
            classifier that follows the layer.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import DeepFeatureFactorization
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> factorization = DeepFeatureFactorization(model, model[1], computation_on_concepts=model[4])
        >>> concepts, maps, logits = factorization(torch.rand(2, 3, 16, 16), n_components=1)
        >>> concepts.shape, maps[0].shape, logits.shape
        ((4, 1), (1, 16, 16), (1, 2))
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
        self.activations_and_grads = ActivationsAndGradients(unwrap(model), [target_layer], reshape_transform)

    def __call__(self, input_tensor: torch.Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """Factorise the activations of a batch of images.

        Args:
            input_tensor: (N, C, *spatial) batch; it is moved to the model's device.
            n_components: number of concepts.

        Returns:
            The concepts (C, n_components); a list with the maps of each image, (n_components, *spatial) float32 at
            the size of the input, each min-max normalised to [0, 1]; and, with ``computation_on_concepts``, its result
            as an array.
        """
        recorder, compute = self.activations_and_grads, self.computation_on_concepts
        like = next(recorder.model.parameters(), input_tensor)
        head = compute if isinstance(compute, Module) else recorder.model
        with explanation_context(recorder.model), explanation_context(head), torch.no_grad():
            inputs = prepare(input_tensor, like.device)
            with_usable_caches(lambda: recorder(inputs, with_graph=False))
            (activations,) = recorder.activations
            recorder.clear()
            concepts, amounts = dff(activations.cpu().numpy(), n_components)
            maps = list(scale_accross_batch_and_channels(amounts, tuple(input_tensor.shape[:1:-1])))
            if compute is None:
                return concepts, maps
            computed = compute(torch.from_numpy(concepts.T).to(like))
            # numpy does not support bfloat16
            return concepts, maps, (computed.float() if computed.is_floating_point() else computed).cpu().numpy()

    def __enter__(self) -> "DeepFeatureFactorization":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to release: hooks exist during a call only. Exceptions propagate."""


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
    """Show an image, the concepts that a layer detects in it, and a legend with the classes that each supports.

    Args:
        model: class names are read from ``model.config.id2label``, as in transformers; otherwise class indices are
            shown.
        target_layer: module of the model whose output is (N, C, H, W).
        classifier: maps concepts (n, C) to logits (n, K): the part of the model after its pooling.
        img_pil: the image, cropped and resized as for the network.
        img_tensor: (C, H, W), the same image as network input.
        reshape_transform: brings another layer output into the shape (N, C, H, W).
        n_components: number of concepts.
        top_k: number of classes per concept in the legend.

    Returns:
        (H, 3 W, 3) uint8, RGB.

    Raises:
        ValueError: ``img_pil`` and ``img_tensor`` differ in size.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import run_dff_on_image
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from PIL import Image
        >>> img = Image.new("RGB", (32, 24))
        >>> run_dff_on_image(model, model[1], model[4], img, torch.rand(3, 24, 32), n_components=1).shape
        (24, 96, 3)
    """
    image = np.asarray(img_pil.convert("RGB"))
    if image.shape[:2] != img_tensor.shape[1:]:
        raise ValueError(
            f"img_pil is {image.shape[:2]} (rows, columns), img_tensor {tuple(img_tensor.shape[1:])}: "
            "pass the image cropped and resized like the tensor"
        )
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, (maps,), logits = factorization(img_tensor[None], n_components)
    probabilities = torch.from_numpy(logits).softmax(dim=-1).numpy()
    names = getattr(getattr(model, "config", None), "id2label", None) or [f"class {k}" for k in range(logits.shape[1])]
    legend = create_labels_legend(probabilities, names, top_k)
    overlay = show_factorization_on_image(image / 255, maps, image_weight=0.3, concept_labels=legend)
    return np.hstack((image, overlay))
