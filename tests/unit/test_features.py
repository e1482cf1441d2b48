"""Features of the linear probe: computed once, kept under a key of all that they depend on."""

import pytest
import torch

from crackcam import runtime
from crackcam.data.pixels import PixelSplit
from crackcam.models import checks, heads, pretrained
from crackcam.training import features, trainer

CPU = torch.device("cpu")
MACHINE = runtime.Runtime(CPU, torch.float32)


def split(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return PixelSplit(pixels, torch.arange(count) % 2, [])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return checks.place(pretrained.build_classifier("squeezenet1_1", 2), CPU)


def test_a_second_probe_runs_no_network_and_ends_alike(network, tmp_path, capsys):
    runs = []
    network.features.register_forward_hook(lambda *_: runs.append(1))
    file = tmp_path / "model.features"
    first = trainer.linear_probe(network, MACHINE, split(20, 0), split(8, 1), 8, file)
    assert len(runs) == 3 + 1  # batches
    head = [tensor.clone() for tensor in network.classifier[1].parameters()]
    heads.set_linear_head(network, torch.zeros(2, 512), torch.zeros(2))
    second = trainer.linear_probe(network, MACHINE, split(20, 0), split(8, 1), 8, file)
    assert second.val_loss == pytest.approx(first.val_loss, rel=1e-6)
    assert len(runs) == 4
    assert f"features: those of the last run, in {file}" in capsys.readouterr().err
    torch.testing.assert_close(list(network.classifier[1].parameters()), head)
    assert [path.name for path in tmp_path.iterdir()] == ["model.features"]


def test_the_probe_scores_what_the_network_does(network):
    found = trainer.linear_probe(network, MACHINE, split(20, 0), split(8, 1), 8)
    scores = trainer.evaluate(network, MACHINE, split(8, 1), 8)
    assert found.val_loss == pytest.approx(scores.loss, rel=1e-4)
    assert found.val_accuracy == scores.accuracy


def test_the_key_is_of_all_that_features_depend_on(network):
    def key(model=network, machine=MACHINE, **splits):
        return features.key_of(model, machine, {"train": split(4, 0), **splits})

    own = key()
    assert key() == own
    heads.set_linear_head(network, torch.ones(2, 512), torch.ones(2))
    assert key() == own  # the head is not among them
    changed = split(4, 0)
    changed.pixels[3, 2, 63, 63] ^= 1
    assert key(train=changed) != own
    assert key(val=split(1, 0)) != own
    assert key(machine=runtime.Runtime(CPU, torch.bfloat16)) != own
    assert key(machine=runtime.Runtime(CPU, torch.float32, (0.5, 0.5, 0.5))) != own
    with torch.no_grad():
        network.features[0].bias[0] += 1e-3
    assert key() != own


def test_a_file_of_another_key_or_a_damaged_one_is_none(network, tmp_path):
    file = tmp_path / "model.features"
    splits = {"train": split(4, 0)}
    wanted = features.kept_features(network, MACHINE, splits, 2, file)["train"]
    key = features.key_of(network, MACHINE, splits)
    assert torch.equal(features.read(file, key)["train"], wanted)
    assert features.read(file, "other") is None
    file.write_bytes(file.read_bytes()[:100])
    assert features.read(file, key) is None
    assert torch.equal(features.kept_features(network, MACHINE, splits, 2, file)["train"], wanted)
    assert torch.equal(features.read(file, key)["train"], wanted)


def test_large_ones_are_not_kept(network, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "LARGEST", 4 * 512 * 4 - 1)
    features.kept_features(network, MACHINE, {"train": split(4, 0)}, 2, tmp_path / "model.features")
    assert not list(tmp_path.iterdir())
