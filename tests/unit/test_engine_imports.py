"""Names are imported on first use."""

import subprocess
import sys

import pytest
from conftest import ROOT

import pytorch_grad_cam
from pytorch_grad_cam import (
    GradCAMPlusPlus,
    XGradCAM,
    metrics,
)
from pytorch_grad_cam.metrics import road

pytestmark = pytest.mark.slow


def test_names_resolve_lazily():
    assert pytorch_grad_cam.GradCAMPlusPlus is GradCAMPlusPlus
    assert pytorch_grad_cam.XGradCAM is XGradCAM
    assert set(pytorch_grad_cam.__all__) <= set(dir(pytorch_grad_cam))
    with pytest.raises(AttributeError, match="NoSuchCAM"):
        _ = pytorch_grad_cam.NoSuchCAM


@pytest.mark.slow
def test_helpers_are_imported_on_first_use():
    code = (
        "import sys, pytorch_grad_cam.utils as u; assert 'torch' not in sys.modules; "
        "u.model_targets.ClassifierOutputReST, u.reshape_transforms.vit_reshape_transform; "
        "assert u.deprocess_image is u.image.deprocess_image; "
        "assert u.get_2d_projection is u.svd_on_activations.get_2d_projection; "
        "assert {'model_targets', 'deprocess_image'} <= set(dir(u)); "
        "assert 'matplotlib' not in sys.modules and 'sklearn' not in sys.modules; u.nonsense"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "has no attribute 'nonsense'" in done.stderr.splitlines()[-1], done.stderr


def test_modules_are_reached_as_attributes():
    assert metrics.__getattr__("road") is road
    assert {"arcc", "cam_mult_image", "perturbation_confidence", "road"} <= set(dir(metrics))
    with pytest.raises(AttributeError, match="no attribute 'ARCC'"):
        metrics.ARCC  # noqa: B018
