"""What an explanation must leave unchanged: the model, the caller's state and the random number generators."""

import gc

import numpy as np
import pytest
import torch
from networks import (
    CLASS_INDEPENDENT,
    CLASSES,
    METHODS,
    Small,
    activations_and_gradients,
    method,
    small_images,
)

import pytorch_grad_cam
from pytorch_grad_cam import (
    GradCAM,
    GuidedBackpropReLUModel,
)
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def state_of(model):
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "modules": [id(m) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "parameters": [p.detach().clone() for p in model.parameters()],
        "rng": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", METHODS)
def test_explanations_leave_the_model_unchanged(name, images):
    model = Small().train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model(images).sum().backward()
    before = state_of(model)
    kept = images.clone()
    cam = method(name, model, [model.relu])
    cam(images, CLASSES)
    failing = [ClassifierOutputTarget(0)] * 3 + [lambda output: output[99]]
    if name not in CLASS_INDEPENDENT:  # which ignore the targets
        with pytest.raises(ValueError if name == "CAM" else IndexError):
            cam(images, failing)
    del cam
    gc.collect()
    after = state_of(model)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(images, kept)
    assert images.grad is None


def test_guided_backprop_leaves_the_model_unchanged(images):
    model = Small().train()
    before = state_of(model)
    GuidedBackpropReLUModel(model)(images, target_category=1)
    after = state_of(model)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_activations_are_not_held_between_calls(model, images):
    cam = GradCAM(model, [model.relu])
    cam(images)
    model(images)
    assert cam.activations_and_grads.activations == []
    assert not cam.outputs.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_frozen_models_and_callers_without_grad(name, model, images):
    expected = method(name, model, [model.relu])(images, CLASSES)
    for p in model.parameters():
        p.requires_grad_(False)
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        assert np.array_equal(method(name, model, [model.relu])(images, CLASSES), expected)
    with torch.inference_mode():
        assert np.array_equal(method(name, model, [model.relu])(images.clone(), CLASSES), expected)
    assert all((p.grad == 1).all() for p in model.parameters())


def test_gradient_is_bit_identical_to_a_full_backward_pass(model, images):
    a, g = activations_and_gradients(model, model.relu, images, CLASSES)
    recorder = pytorch_grad_cam.ActivationsAndGradients(model, [model.relu])
    outputs = recorder(images)
    found = recorder.differentiate(outputs[torch.arange(4), torch.tensor(CLASSES)].sum())
    assert torch.equal(recorder.activations[0], a)
    assert torch.equal(found[0], g)


def test_in_place_layers_after_the_target_layer(images):
    """conv2 is followed by an in-place ReLU: its own, signed output is explained."""
    model = Small().eval()
    with torch.no_grad():
        signed = model.conv2(torch.relu(model.bn1(model.conv1(images))))
    for with_graph in (True, False):
        recorder = pytorch_grad_cam.ActivationsAndGradients(model, [model.conv2])
        recorder(images, with_graph=with_graph)
        assert torch.equal(recorder.activations[0], signed)
