"""The head whose logits are sums of maps."""

import json

import numpy as np
import pytest
import torch
from narrow_resnet import NarrowResNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from crackcam import Classifier
from crackcam.errors import UserError
from crackcam.models import checkpoint, pretrained, stages, target_layers
from crackcam.models.multiscale import Multiscale
from crackcam.runtime import Runtime
from crackcam.types import ModelCard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("examined_once")]

CPU = torch.device("cpu")


class TwoStages(nn.Module):
    """Passes its three colours on, then halves the grid."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Identity(), nn.AvgPool2d(2)

    def forward(self, images):
        return self.coarse(self.fine(images))


def untouched(model):
    """Without normalisation, so that values can be computed by hand."""
    for stage in model.maps:
        stage[0] = nn.Identity()
    return model.eval()


def test_evidence_and_logits_by_hand():
    model = untouched(Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=1))
    with torch.no_grad():
        model.maps[0][1].weight.copy_(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
        model.maps[1][1].weight.copy_(torch.tensor([0, 2.0, 0]).view(1, 3, 1, 1))
        for stage in model.maps:
            stage[1].bias.zero_()
        model.scale.fill_(3)
        model.bias.fill_(0.5)
        image = torch.zeros(1, 3, 2, 2)
        image[0, 0] = torch.tensor([[0.0, 1], [0, 0]])  # of the fine stage: as it is
        image[0, 1] = torch.tensor([[4.0, 0], [0, 0]])  # of the coarse one: its mean, 1, twice, everywhere
        evidence = model.evidence(image)
        torch.testing.assert_close(evidence, torch.tensor([[[[2.0, 3], [2, 2]]]]))
        weights = (2 * torch.tensor([2.0, 3, 2, 2])).softmax(0)
        expected = 3 * (weights * torch.tensor([2.0, 3, 2, 2])).sum() + 0.5
        torch.testing.assert_close(model(image), expected.view(1, 1))


@pytest.mark.parametrize("arch", [NarrowResNet, "squeezenet1_0", "mobilenet_v3_small"])
def test_map_sums_to_the_logit(arch):
    torch.manual_seed(0)
    backbone = arch(3) if arch is NarrowResNet else pretrained.build_classifier(arch, 3)
    model = stages.add_multiscale_head(backbone, 3, 64).eval()
    with torch.no_grad():
        for convolution in (layer for layer in model.maps.modules() if isinstance(layer, nn.Conv2d)):
            convolution.weight.normal_()
            convolution.bias.normal_()
        model.scale.uniform_(1, 5)
        model.bias.normal_()
        images = torch.randn(2, 3, 64, 64)
        evidence = model.evidence(images)
        summed = model.contributions(evidence).double().sum(dim=(2, 3)) + model.bias
    assert evidence.shape[2] == 64 // 4 or arch == "squeezenet1_0"  # whose pools round otherwise
    torch.testing.assert_close(summed.float(), model(images), rtol=1e-5, atol=1e-5)


def test_stages_of_a_resnet():
    model = stages.add_multiscale_head(NarrowResNet(2), 2, 96)
    assert model.stages == {"layer1": 8, "layer2": 16, "layer3": 32, "layer4": 64}
    assert target_layers.grid_layers(model.eval(), 96)[1] == "backbone.layer4"
    (layer,) = target_layers.find_target_layers(model, 96, ["layer3"])  # by the name that the architecture gives it
    assert layer.module is model.backbone.layer3
    found = target_layers.find_target_layers(model.train(), 96, stages=True)  # without examining all layers
    grids = target_layers.grid_layers(model, 96)[0]
    assert [each.name for each in found] == [f"backbone.layer{number}" for number in (1, 2, 3, 4)]
    assert [each.grid for each in found] == [grids[each.name] for each in found]
    assert found[2].module is model.backbone.layer3
    assert model.training


def test_a_small_confident_region_counts_more_than_a_large_doubtful_one():
    model = Multiscale(TwoStages(), {"fine": 3}, classes=1)
    spot, haze = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
    spot[0, 0, 3, 3] = 10
    assert model.pool(spot) > 9 * model.pool(haze)


def test_models_of_tokens_are_refused():
    with pytest.raises(UserError, match="grids of several sizes"):
        stages.add_multiscale_head(pretrained.build_classifier("timm/test_vit", 2), 2, 160)


def test_absence_has_no_map():
    model = Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=2).eval()
    model.mask_out_class(0)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.25, 0.0]))
        images = torch.randn(2, 3, 4, 4)
        evidence, logits = model.evidence(images), model(images)
    assert model.class_mask.tolist() == [0, 1]
    assert not evidence[:, 0].any()
    assert evidence[:, 1].any()
    assert (logits[:, 0] == 0.25).all()


def test_a_layer_that_is_not_there():
    with pytest.raises(AttributeError, match="nowhere"):
        Multiscale(TwoStages(), {"nowhere": 3}, classes=2)


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path, half):
    torch.manual_seed(0)
    model = stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 64).eval()
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=model.stages, decoder=model.decoder_channels)
    checkpoint.save(tmp_path / "m.safetensors", model, card, half=half)
    again, read = checkpoint.load(tmp_path / "m.safetensors", CPU)
    assert read.head == "multiscale"
    assert read.stages == model.stages
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=1e-2 if half else 1e-5)
    size = (tmp_path / "m.safetensors").stat().st_size
    assert size < (23e6 if half else 46e6)


def test_the_decoder_adds_detail_from_coarse_to_fine():
    """Its map depends on all stages, lies on the finest grid, and moves with the image."""
    torch.manual_seed(0)
    model = Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=1, decoder=8).eval()
    with torch.no_grad():
        for linear in model.maps[:2]:
            linear[1].weight.zero_()
        model.maps[2].weight.normal_()
        plain, spotted = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
        spotted[..., 8:12, 20:24] = 3
        changed = (model.evidence(spotted) - model.evidence(plain)).abs()[0, 0]
    assert changed.shape == (32, 32)
    assert changed[6:14, 18:26].mean() > 20 * changed[20:, :10].mean()
    assert changed.max() > 1e-3


def test_checkpoints_of_heads_without_a_decoder_still_load(tmp_path):
    """Those written before there was one; their card does not mention it."""
    torch.manual_seed(0)
    model = stages.with_maps(pretrained.build_classifier("resnet18", 2), {"layer1": 64, "layer4": 512}, 2).eval()
    assert not any(name.startswith("decoder") for name in model.state_dict())
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=model.stages)
    checkpoint.save(tmp_path / "m.safetensors", model, card)
    tensors = load_file(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        document = json.loads(file.metadata()["crackcam"])
    assert document.pop("decoder") == 0
    save_file(tensors, tmp_path / "old.safetensors", metadata={"crackcam": json.dumps(document)})
    again, read = checkpoint.load(tmp_path / "old.safetensors", CPU)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images))
    assert read.decoder == 0


def test_a_head_without_a_decoder_is_no_start_for_one_with_it(tmp_path):
    """Its decoder would stay random, and be trained at the low rate of a head that has learned."""
    found = {"layer1": 8, "layer4": 64}
    old, new = (stages.with_maps(NarrowResNet(2), found, 2, width) for width in (0, 8))
    for name, model in (("old", old), ("new", new)):
        card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=found, decoder=model.decoder_channels)
        checkpoint.save(tmp_path / f"{name}.safetensors", model, card)
    assert pretrained.load_maps(new, tmp_path / "new.safetensors")
    assert not pretrained.load_maps(new, tmp_path / "old.safetensors")


def test_a_card_that_names_no_layer(tmp_path):
    model = stages.with_maps(pretrained.build_classifier("resnet18", 2), {"layer1": 64}, 2)
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages={"layer9": 64})
    checkpoint.save(tmp_path / "m.safetensors", model, card)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path / "m.safetensors", CPU)


def test_the_heatmap_of_a_small_image_lies_on_it():
    """The evidence is in one corner of the image, not of the padding around it."""
    model = untouched(Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=1))
    with torch.no_grad():
        model.maps[0][1].weight.copy_(torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1))
        model.maps[1][1].weight.zero_()
    card = ModelCard("resnet18", ["a"], 64, [0.0] * 3, [1.0] * 3, max_scale=1.0, head="multiscale")
    classifier = Classifier.of(model, card, Runtime())
    image = np.zeros((30, 50, 3), np.uint8)
    image[:10, 40:] = 255
    for scales in ([1], [1, 2.0], ["own"], [1, "own"]):
        heatmap = classifier.explain(image, method="evidence", target="a", scales=scales).heatmap
        assert heatmap.shape == (30, 50)
        assert heatmap[:8, 42:].min() > 0.9
        assert heatmap[13:].max() < 0.1
        assert heatmap[:, :37].max() < 0.1
