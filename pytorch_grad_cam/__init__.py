"""Class activation maps for PyTorch: where in the picture did the network look?

    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(model=model, target_layers=[model.layer4[-1]])
    heat = cam(input_tensor, targets=[ClassifierOutputTarget(281)])    # (N, H, W) float32 in [0, 1]

The documented API of the PyPI package grad-cam 1.5.7, implemented anew: gradients are taken for the target
layer only, nothing is left behind on the model, and maps stay on the device (``cam.maps``) until they are
asked for as numpy arrays (``cam(...)``). Where the two differ on purpose, docs/differences.md says why.

Classes are imported on first use, so that ``import pytorch_grad_cam`` does not import torch.
"""

from importlib import import_module

_MODULE_OF = {
    "AblationCAM": "ablation_cam",
    "ActivationsAndGradients": "activations_and_gradients",
    "BaseCAM": "base_cam",
    "EigenCAM": "eigen_cam",
    "EigenGradCAM": "eigen_grad_cam",
    "FullGrad": "fullgrad_cam",
    "GradCAM": "grad_cam",
    "GradCAMPlusPlus": "grad_cam_plusplus",
    "GuidedBackpropReLUModel": "guided_backprop",
    "LayerCAM": "layer_cam",
    "ScoreCAM": "score_cam",
    "XGradCAM": "xgrad_cam",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
