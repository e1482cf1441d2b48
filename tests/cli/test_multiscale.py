"""The head whose logits are sums of maps."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import inference
import train
import xai
from crackcam import runtime
from crackcam.classifier import to_pixels
from crackcam.data import images
from crackcam.errors import UserError
from crackcam.explain import heatmaps
from crackcam.models import checkpoint, pretrained, stages, target_layers
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.types import ModelCard

CPU = torch.device("cpu")


class TwoStages(nn.Module):
    """Passes its three colours on, then halves the grid."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Identity(), nn.AvgPool2d(2)

    def forward(self, pictures):
        return self.coarse(self.fine(pictures))


def untouched(model):
    """Without normalisation, so that values can be told by hand."""
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
        picture = torch.zeros(1, 3, 2, 2)
        picture[0, 0] = torch.tensor([[0.0, 1], [0, 0]])  # of the fine stage: as it is
        picture[0, 1] = torch.tensor([[4.0, 0], [0, 0]])  # of the coarse one: its mean, 1, twice, everywhere
        evidence = model.evidence(picture)
        torch.testing.assert_close(evidence, torch.tensor([[[[2.0, 3], [2, 2]]]]))
        share = (2 * torch.tensor([2.0, 3, 2, 2])).softmax(0)
        expected = 3 * (share * torch.tensor([2.0, 3, 2, 2])).sum() + 0.5
        torch.testing.assert_close(model(picture), expected.view(1, 1))


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_0", "mobilenet_v3_small"])
def test_map_sums_to_the_logit(arch):
    torch.manual_seed(0)
    model = stages.add_multiscale_head(pretrained.build_classifier(arch, 3), 3, 64).eval()
    with torch.no_grad():
        for stage in model.maps:
            stage[1].weight.normal_()
            stage[1].bias.normal_()
        model.scale.uniform_(1, 5)
        model.bias.normal_()
        pictures = torch.randn(2, 3, 64, 64)
        evidence = model.evidence(pictures)
        told = model.contributions(evidence).double().sum(dim=(2, 3)) + model.bias
    assert evidence.shape[2] == 64 // 4 or arch == "squeezenet1_0"  # whose pools round otherwise
    torch.testing.assert_close(told.float(), model(pictures), rtol=1e-5, atol=1e-5)


def test_stages_of_resnet18():
    model = stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 224)
    assert model.stages == {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    assert target_layers.grid_layers(model.eval(), 224)[1] == "backbone.layer4"
    (layer,) = target_layers.find_target_layers(model, 224, ["layer3"])  # by the name that the architecture gives it
    assert layer.module is model.backbone.layer3


def test_a_small_certain_place_counts_more_than_a_large_doubtful_one():
    model = Multiscale(TwoStages(), {"fine": 3}, classes=1)
    point, haze = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5)
    point[0, 0, 3, 3] = 10
    assert model.pool(point) > 9 * model.pool(haze)


def test_networks_of_tokens_are_refused():
    with pytest.raises(UserError, match="grids of several sizes"):
        stages.add_multiscale_head(pretrained.build_classifier("vit_b_32", 2), 2, 224)


def test_absence_has_no_map():
    model = Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=2).eval()
    model.silence(0)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.25, 0.0]))
        pictures = torch.randn(2, 3, 4, 4)
        evidence, logits = model.evidence(pictures), model(pictures)
    assert not evidence[:, 0].any()
    assert evidence[:, 1].any()
    assert (logits[:, 0] == 0.25).all()


@pytest.mark.torture
def test_a_trained_head_is_trained_on(fresh, capsys):
    arguments = ["--image-size", "64", "--batch-size", "8", "--workers", "0", "--head", "multiscale"]
    assert (
        train.main([*arguments, "--pretrained", "none", "--epochs", "1", "--output", "weights/first.safetensors"]) == 0
    )
    first, _ = checkpoint.load(fresh.root / "weights/first.safetensors", CPU)
    again = ["--pretrained", "weights/first.safetensors", "--epochs", "1", "--lr", "1e-9"]
    assert train.main([*arguments, *again]) == 0
    second, _ = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert second.speaking.tolist() == [0, 1]
    assert not torch.equal(first.scale, second.scale)  # cooled again
    torch.testing.assert_close(first.maps[3][1].weight, second.maps[3][1].weight, rtol=1e-3, atol=1e-5)


def test_a_layer_that_is_not_there():
    with pytest.raises(AttributeError, match="nowhere"):
        Multiscale(TwoStages(), {"nowhere": 3}, classes=2)


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path, half):
    torch.manual_seed(0)
    model = stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 64).eval()
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=model.stages)
    checkpoint.save(tmp_path / "m.safetensors", model, card, half=half)
    again, read = checkpoint.load(tmp_path / "m.safetensors", CPU)
    assert read.head == "multiscale"
    assert read.stages == model.stages
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(pictures), model(pictures), rtol=0, atol=1e-2 if half else 1e-5)
    size = (tmp_path / "m.safetensors").stat().st_size
    assert size < (23e6 if half else 45e6)


def test_a_card_that_names_no_layer(tmp_path):
    model = stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 64)
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages={"layer9": 64})
    checkpoint.save(tmp_path / "m.safetensors", model, card)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path / "m.safetensors", CPU)


def test_training_and_explaining_one(fresh, capsys):
    arguments = ["--pretrained", "none", "--image-size", "64", "--epochs", "1", "--batch-size", "8", "--workers", "0"]
    assert train.main([*arguments, "--head", "multiscale", "--half", "--json"]) == 0
    capsys.readouterr()
    network, card = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert set(card.thresholds["evidence"]) == {"Negative", "Positive"}
    assert isinstance(network, Multiscale)
    assert card.head == "multiscale"
    assert card.training["mix_sample"] is None
    tensors = checkpoint.read_tensors(fresh.root / "weights/model.safetensors")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert json.loads(json.dumps(card.metrics))["test"]["accuracy"] >= 0
    assert xai.main(["--num", "2", "--save-maps", "maps", "--style", "mask"]) == 0
    assert "best: --method evidence\n" in capsys.readouterr().err
    row = json.loads(Path("outputs/xai_Positive_best.json").read_text())["pictures"][0]
    assert row["maps"]["evidence"]["threshold"] == card.thresholds["evidence"]["Positive"]
    heat = np.load(row["maps"]["evidence"]["file"])
    preprocessing = card.preprocessing
    pixels = torch.from_numpy(preprocessing.apply(images.read_image(Path(row["file"])))).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
    with torch.no_grad():
        evidence = network.evidence((pixels / 255 - mean) / std)[:, 1:].sigmoid()
    expected = torch.nn.functional.interpolate(evidence, (64, 64), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.interpolate(expected, heat.shape, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(heat, expected.numpy(), atol=1e-4)
    assert xai.main(["--method", "gradcam,layercam,eigencam,evidence", "--num", "2"]) == 0
    assert xai.main(["--method", "evidence", "--scales", "1,2", "--num", "2"]) == 0
    assert xai.main(["--method", "evidence", "--aug-smooth"]) == 2
    assert "is the decision itself" in capsys.readouterr().err


def test_small_pictures_are_scored_as_inference_sees_them(fresh):
    """They are trained on at their own size, and framed to fill the network's."""
    arguments = ["--pretrained", "none", "--arch", "squeezenet1_1", "--epochs", "1", "--workers", "0"]
    flags = ["--image-size", "288", "--head", "multiscale", "--mix-sample", "0", "--precision", "fp32"]
    assert train.main([*arguments, *flags]) == 0
    _, card = checkpoint.load(fresh.root / "weights/model.safetensors", CPU)
    assert (card.image_size, card.max_scale) == (288, 1.0)
    assert {row["size"] for row in csv.DictReader(Path("outputs/training.csv").open())} == {"128"}  # 4/7 of 224
    assert inference.main(["--all", "--precision", "fp32"]) == 0
    rows = list(csv.DictReader(Path("outputs/predictions_all.csv").open()))
    losses = [-math.log(float(row[f"p_{row['true']}"])) for row in rows]
    assert np.mean(losses) == pytest.approx(card.metrics["test"]["loss"], abs=2e-4)


def test_map_of_a_small_picture_lies_on_it(tmp_path, monkeypatch):
    """What speaks is one corner of the picture, not of the frame about it."""
    model = untouched(Multiscale(TwoStages(), {"fine": 3, "coarse": 3}, classes=1))
    with torch.no_grad():
        model.maps[0][1].weight.copy_(torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1))
        model.maps[1][1].weight.zero_()
    card = ModelCard("resnet18", ["a"], 64, [0.0] * 3, [1.0] * 3, max_scale=1.0, head="multiscale")
    network = LoadedModel(model, card, runtime.Runtime(CPU, torch.float32, card.mean, card.std), None)
    picture = np.zeros((30, 50, 3), np.uint8)
    picture[:10, 40:] = 255
    pixels = to_pixels(network, [picture])
    for scales in ([1], [1, 2.0], ["own"], [1, "own"]):
        (heat,) = heatmaps.merged_maps(network, "evidence", [], pixels, [picture], [0], scales)
        whole = heatmaps.at_picture_size(heat, picture, card.preprocessing)
        assert whole.shape == (30, 50)
        assert whole[:8, 42:].min() > 0.9
        assert whole[13:].max() < 0.1
        assert whole[:, :37].max() < 0.1
