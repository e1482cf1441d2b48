"""Class activation maps for PyTorch: which regions of an image support a network's decision.

    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(model=model, target_layers=[model.layer4[-1]])
    heatmaps = cam(input_tensor, targets=[ClassifierOutputTarget(281)])  # (N, H, W) float32 in [0, 1]

An independent implementation of the documented API of the PyPI package grad-cam 1.5.7: gradients are computed for the
target layer only, the model is left unchanged, and heatmaps stay on the device (``cam.maps``) unless numpy arrays are
requested (``cam(...)``). docs/reference/differences.md lists the intended differences and their reasons.

Classes are imported on first use, so that ``import pytorch_grad_cam`` does not import torch.
"""

from importlib import import_module

_MODULE_OF = {
    "AblationCAM": "ablation_cam",
    "AblationLayer": "ablation_layer",
    "AblationLayerFasterRCNN": "ablation_layer",
    "AblationLayerVit": "ablation_layer",
    "ActivationsAndGradients": "activations_and_gradients",
    "BaseCAM": "base_cam",
    "CAM": "cam",
    "DeepFeatureFactorization": "feature_factorization.deep_feature_factorization",
    "EigenCAM": "eigen_cam",
    "EigenGradCAM": "eigen_grad_cam",
    "FEM": "fem",
    "FinerCAM": "finer_cam",
    "FullGrad": "fullgrad_cam",
    "GradCAM": "grad_cam",
    "GradCAMElementWise": "grad_cam_elementwise",
    "GradCAMPlusPlus": "grad_cam_plusplus",
    "GuidedBackpropReLUModel": "guided_backprop",
    "GuidedGradCAM": "guided_backprop",
    "HiResCAM": "hirescam",
    "IntegratedGradients": "integrated_gradients",
    "KPCA_CAM": "kpca_cam",
    "LayerCAM": "layer_cam",
    "Occlusion": "occlusion",
    "RISE": "rise",
    "RandomCAM": "random_cam",
    "RefineCAM": "refine_cam",
    "SESS": "sess",
    "ScoreCAM": "score_cam",
    "SegEigenCAM": "seg_eigen_cam",
    "ShapleyCAM": "shapley_cam",
    "SmoothGrad": "smooth_grad",
    "SmoothGradCAMPlusPlus": "smooth_grad_cam_plusplus",
    "XGradCAM": "xgrad_cam",
    "run_dff_on_image": "feature_factorization.deep_feature_factorization",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in ("metrics", "utils"):  # tutorials access them as attributes
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
