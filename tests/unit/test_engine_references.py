"""Networks as people use them, against Grad-CAM by plain hooks: transformers, segmentation, video, several inputs."""

import numpy as np
import pytest
import torch
import torchvision
from networks import finished, resized
from torch import nn

from pytorch_grad_cam import EigenCAM, GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, SemanticSegmentationTarget

pytestmark = pytest.mark.slow


def by_hooks(call, layer, score, to_grid=lambda output: output):
    """Grad-CAM at the layer's resolution: plain hooks and autograd."""
    kept = []

    def keep(module, inputs, output):
        tensor = output[0] if isinstance(output, tuple) else output
        kept.append(tensor)
        return (tensor.clone(), *output[1:]) if isinstance(output, tuple) else tensor.clone()

    handle = layer.register_forward_hook(keep)
    value = score(call())
    handle.remove()
    (gradients,) = torch.autograd.grad(value, kept[-1])
    a, g = to_grid(kept[-1].detach()), to_grid(gradients)
    return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)


def tokens_to_grid(side, first=1):
    return lambda tokens: tokens[:, first:].transpose(1, 2).unflatten(2, (side, side))


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}


def vit():
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, patch_size=8, num_labels=4))
    return model, "vit.layernorm", None


def convnext():
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], num_labels=4)
    return transformers.ConvNextForImageClassification(config), "convnext.encoder.stages.2", lambda output: output


def resnet():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    return transformers.ResNetForImageClassification(config), "resnet.encoder.stages.1", lambda output: output


def last_norm_before_attention(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)][-3]


def signed(model, name, transform, inputs, targets):
    return GradCAM(model, [name], transform).maps(inputs, targets, normalize=False, relu=False)


@pytest.mark.parametrize("make", [vit, convnext, resnet])
def test_transformers_classifiers(make):
    torch.manual_seed(0)
    model, name, to_grid = make()
    model.eval()
    nn.init.normal_(model.classifier.weight if isinstance(model.classifier, nn.Linear) else model.classifier[1].weight)
    if to_grid is None:
        name, to_grid = last_norm_before_attention(model), tokens_to_grid(4)
    x, classes = torch.randn(2, 3, 32, 32), [1, 3]
    layer = model.get_submodule(name)
    expected = by_hooks(lambda: model(x), layer, lambda o: o.logits[range(2), classes].sum(), to_grid)
    expected = resized(expected, (32, 32))
    assert expected.abs().max() > 1e-6
    transform = to_grid if make is vit else None
    softmax = by_hooks(lambda: model(x), layer, lambda o: o.logits.softmax(-1)[range(2), classes].sum(), to_grid)
    for inputs in (x, {"pixel_values": x}, (x,)):
        assert torch.allclose(signed(model, name, transform, inputs, classes), expected, rtol=1e-3, atol=1e-6)
    targets = [lambda output, c=c: output.logits[c] for c in classes]  # the whole ModelOutput of an image
    assert torch.allclose(signed(model, name, transform, x, targets), expected, rtol=1e-3, atol=1e-6)
    found = signed(model, name, transform, x, [ClassifierOutputSoftmaxTarget(c) for c in classes])
    assert torch.allclose(found, resized(softmax, (32, 32)), rtol=1e-3, atol=1e-6)


def test_transformers_segmentation():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    x, mask = torch.randn(1, 3, 64, 64), torch.zeros(16, 16, dtype=torch.bool)
    mask[3:9, 4:12] = True
    layer = model.decode_head.batch_norm
    expected = by_hooks(lambda: model(x), layer, lambda o: o.logits[0, 2][mask].sum())
    found = GradCAM(model, ["decode_head.batch_norm"])(x, [SemanticSegmentationTarget(2, mask)])
    assert np.allclose(found, finished(expected, (64, 64)), atol=1e-4)
    with pytest.raises(ValueError, match="SemanticSegmentationTarget"):
        GradCAM(model, ["decode_head.batch_norm"])(x, 2)


@pytest.mark.parametrize("texts", [2, 3])
def test_transformers_clip(texts):
    """Images explained by texts; as many texts as images, and more."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    vision = {**SMALL, "patch_size": 8}
    config = transformers.CLIPConfig(text_config={**text, "eos_token_id": 2}, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    inputs = {"input_ids": torch.randint(3, 50, (texts, 5)), "pixel_values": torch.randn(2, 3, 32, 32)}
    name = "vision_model.encoder.layers.1.layer_norm1"
    expected = by_hooks(
        lambda: model(**inputs),
        model.get_submodule(name),
        lambda o: o.logits_per_image[[0, 1], [1, 0]].sum(),
        tokens_to_grid(4),
    )
    for targets in ([1, 0], [lambda o: o.logits_per_image[1], lambda o: o.logits_per_image[0]]):
        found = GradCAM(model, [name], tokens_to_grid(4))(inputs, targets)
        assert np.allclose(found, finished(expected, (32, 32)), atol=1e-3)


def test_weight_sharing_transformers():
    """ALBERT's blocks share their weights; patches in place of words."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=10,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
    )

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 8, stride=8)
            self.albert = transformers.AlbertModel(config, add_pooling_layer=False)
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            return self.fc(self.albert(inputs_embeds=tokens).last_hidden_state.pow(2).mean(dim=1))

    model, x = Patches().eval(), torch.randn(2, 3, 32, 32)
    name = next(n for n, m in model.named_modules() if n.endswith("full_layer_layer_norm"))
    grid = tokens_to_grid(4, first=0)
    expected = by_hooks(lambda: model(x), model.get_submodule(name), lambda o: o[[0, 1], [0, 2]].sum(), grid)
    assert np.allclose(GradCAM(model, [name], grid)(x, [0, 2]), finished(expected, (32, 32)), atol=1e-4)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvision_segmentation(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    x, mask = torch.randn(1, 3, 64, 64), np.zeros((64, 64), np.float32)
    mask[10:30, 20:50] = 1
    layer = model.backbone
    last = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    expected = by_hooks(lambda: model(x), last, lambda o: (o["out"][0, 3] * torch.from_numpy(mask)).sum())
    found = GradCAM(model, [last])(x, [SemanticSegmentationTarget(3, mask)])
    assert np.allclose(found, finished(expected, (64, 64)), atol=1e-4)


class Temporal(nn.Module):
    """A temporal segment network: frames are a batch, the consensus is the mean of their scores."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torchvision.models.resnet18(num_classes=5)

    def forward(self, frames):
        return self.net(frames).mean(dim=0, keepdim=True)


@pytest.mark.parametrize("cam_class", [GradCAM, HiResCAM, EigenCAM])
def test_video_bags(cam_class):
    model, frames = Temporal().eval(), torch.randn(4, 3, 64, 64)
    found = cam_class(model, ["net.layer3"])(frames, [2])
    assert found.shape == (4, 64, 64)
    alone = cam_class(model.net, ["net.layer3".removeprefix("net.")])(frames, [2] * 4)
    assert np.allclose(found, alone, atol=1e-4)
    if cam_class is GradCAM:
        expected = by_hooks(lambda: model(frames), model.net.layer3, lambda o: o[0, 2])
        assert np.allclose(found, finished(expected, (64, 64)), atol=1e-4)


def test_torchvision_detectors_take_lists():
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    image = torch.rand(3, 320, 320)
    targets = [lambda output: output["scores"].sum()]
    for layer in ("backbone.features.0.12",):
        as_list, as_batch = (GradCAM(model, [layer])(x, targets) for x in ([image], image[None]))
        assert as_list.shape == (1, 320, 320)
        assert np.allclose(as_list, as_batch, atol=1e-5)
        module = model.get_submodule(layer)
        expected = by_hooks(lambda: model([image]), module, lambda o: o[0]["scores"].sum())
        assert np.allclose(as_list, finished(expected, (320, 320)), atol=1e-4)
