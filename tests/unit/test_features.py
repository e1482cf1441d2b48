"""Features of the linear probe: computed once, cached under a key of all that they depend on."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from crackcam.data.pixels import PixelSplit
from crackcam.data.storage import StoredArray
from crackcam.errors import UserError
from crackcam.models import checks, heads, pretrained
from crackcam.models.loaded import LoadedModel
from crackcam.runtime import Runtime
from crackcam.training import features, probe, streamed_probe
from crackcam.training.evaluate import evaluate
from crackcam.training.probe import linear_probe
from crackcam.types import ModelCard


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return PixelSplit(pixels, torch.arange(count) % 2, [])


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    model = checks.to_device(pretrained.build_classifier("squeezenet1_1", 2), torch.device("cpu"))
    return LoadedModel(model, ModelCard("squeezenet1_1", ["a", "b"], 64))


def test_a_second_probe_does_not_run_the_model_and_ends_alike(loaded, tmp_path, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    runs = []
    loaded.model.features.register_forward_hook(lambda *_: runs.append(1))
    file = tmp_path / "model.features"
    first = linear_probe(loaded, split(20, 0), split(8, 1), 8, file)
    assert len(runs) == 3 + 1  # batches
    assert not caplog.messages
    head = [tensor.clone() for tensor in loaded.model.classifier[1].parameters()]
    heads.set_linear_head(loaded.model, torch.zeros(2, 512), torch.zeros(2))
    second = linear_probe(loaded, split(20, 0), split(8, 1), 8, file)
    assert second.val_loss == pytest.approx(first.val_loss, rel=1e-6)
    assert len(runs) == 4
    assert caplog.messages == [f"features: reused from {file}"]
    torch.testing.assert_close(list(loaded.model.classifier[1].parameters()), head)
    assert [path.name for path in tmp_path.iterdir()] == ["model.features"]


def test_the_probe_scores_what_the_model_does(loaded):
    found = linear_probe(loaded, split(20, 0), split(8, 1), 8)
    scores = evaluate(loaded, split(8, 1), 8)
    assert found.val_loss == pytest.approx(scores.loss, rel=1e-4)
    assert found.val_accuracy == scores.accuracy


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fit_block_by_block_is_that_of_scikit_learn(classes, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(classes, 12, generator=generator)

    def drawn(count):
        labels = torch.randint(0, classes, (count,), generator=generator) % torch.tensor([classes, 1]).repeat(
            count // 2
        )
        return 3 * torch.randn(count, 12, generator=generator) + 5 + centres[labels], labels

    train, val = drawn(200), drawn(80)
    weight, bias = probe._logistic_regression(*train, *val)
    monkeypatch.setattr(streamed_probe, "BLOCK", 33)
    streamed = streamed_probe.fit_streamed(train, val, probe.REGULARISATION)
    assert weight.abs().max() > 0.05
    torch.testing.assert_close(streamed, (weight, bias), rtol=0.01, atol=2e-3)


def test_many_features_are_in_a_file_and_the_probe_is_the_same(loaded, tmp_path, monkeypatch):
    train, val = split(20, 0), split(8, 1)
    first = linear_probe(loaded, train, val, 8)
    head = [tensor.clone() for tensor in loaded.model.classifier[1].parameters()]
    in_memory = features.compute_features(loaded, val, 3, "")
    monkeypatch.setattr(features, "IN_MEMORY", 8 * 512 * 4 - 1)
    stored = features.compute_features(loaded, val, 3, "")
    assert isinstance(stored, StoredArray)
    assert stored.dtype == torch.float16
    assert torch.equal(stored[:], in_memory.half())
    second = linear_probe(loaded, train, val, 8, tmp_path / "model.features")
    assert second.val_loss == pytest.approx(first.val_loss, rel=1e-3)
    assert second.val_accuracy == first.val_accuracy
    torch.testing.assert_close(list(loaded.model.classifier[1].parameters()), head, rtol=0.02, atol=2e-3)
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        loaded.model.features[0].bias[0] = float("inf")
    with pytest.raises(UserError, match="a feature of the network is NaN, infinite or above 65,504"):
        linear_probe(loaded, train, val, 8)


def test_the_key_is_of_all_that_features_depend_on(loaded):
    def key(model=loaded, **splits):
        return features.cache_key(model, {"train": split(4, 0), **splits})

    own = key()
    assert key() == own
    heads.set_linear_head(loaded.model, torch.ones(2, 512), torch.ones(2))
    assert key() == own  # the head is not among them
    changed = split(4, 0)
    changed.pixels[3, 2, 63, 63] ^= 1
    assert key(train=changed) != own
    assert key(val=split(1, 0)) != own
    assert key(LoadedModel(loaded.model, loaded.card, Runtime(dtype=torch.bfloat16))) != own
    assert key(LoadedModel(loaded.model, replace(loaded.card, mean=[0.5, 0.5, 0.5]))) != own
    with torch.no_grad():
        loaded.model.features[0].bias[0] += 1e-3
    assert key() != own


def test_a_file_of_another_key_or_a_damaged_one_is_none(loaded, tmp_path):
    file = tmp_path / "model.features"
    splits = {"train": split(4, 0)}
    computed = features.cached_features(loaded, splits, 2, file)["train"]
    key = features.cache_key(loaded, splits)
    assert torch.equal(features.read_cache(file, key)["train"], computed)
    assert features.read_cache(file, "other") is None
    file.write_bytes(file.read_bytes()[:100])
    assert features.read_cache(file, key) is None
    assert torch.equal(features.cached_features(loaded, splits, 2, file)["train"], computed)
    assert torch.equal(features.read_cache(file, key)["train"], computed)


def test_large_ones_are_not_cached(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "IN_MEMORY", 4 * 512 * 4 - 1)
    features.cached_features(loaded, {"train": split(4, 0)}, 2, tmp_path / "model.features")
    assert not list(tmp_path.iterdir())


def test_a_cache_with_impossible_features_is_not_used(loaded, tmp_path):
    splits, file = {"train": split(4, 0)}, tmp_path / "model.features"
    true = features.cached_features(loaded, splits, 4, file)["train"]
    key = features.cache_key(loaded, splits)
    for false in (true[:2], true[:, :5], true * float("nan"), true.long(), true[None], torch.zeros(4, 0, 3)):
        save_file({"train": false.contiguous()}, file, metadata={"key": key})
        assert torch.equal(features.cached_features(loaded, splits, 4, file)["train"], true)


def test_features_of_one_token_keep_no_others_in_memory():
    """Of 17 tokens of each image, the head of this ViT sees one."""
    torch.manual_seed(0)
    model = checks.to_device(pretrained.build_classifier("timm/test_vit", 2), torch.device("cpu")).eval()
    with heads.head_inputs(model) as seen, torch.inference_mode():
        model(torch.rand(4, 3, 160, 160))
    (features_of_batch,) = seen
    assert features_of_batch.untyped_storage().nbytes() == features_of_batch.numel() * 4
