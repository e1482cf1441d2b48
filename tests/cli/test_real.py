"""On real photographs and real ImageNet weights, where CRACKCAM_DATA and CRACKCAM_WEIGHTS name them."""

import pytest

import crackcam
import xai


@pytest.fixture
def some_concrete(real_data, tmp_path):
    """The first 50 photographs of each class to learn from, 20 to choose, 40 for testing: links."""
    for split, count in {"train": 50, "val": 20, "test": 40}.items():
        for name in ("Negative", "Positive"):
            folder = tmp_path / "concrete" / split / name
            folder.mkdir(parents=True)
            for file in sorted((real_data / "concrete" / split / name).iterdir())[:count]:
                (folder / file.name).symlink_to(file)
    return tmp_path / "concrete"


def probed(data):
    """The linear probe on SqueezeNet's features."""
    return crackcam.train(crackcam.TrainConfig(data=data, arch="squeezenet1_0", pretrained="imagenet", epochs=0))


@pytest.mark.torture
def test_probe_on_all_concrete(real_data, imagenet_weights, tmp_path, monkeypatch):
    """99.5 % of 1,000 held-out photographs."""
    monkeypatch.chdir(tmp_path)
    assert probed(real_data / "concrete").metrics["test"]["accuracy"] >= 0.995


def test_probe_on_concrete(some_concrete, imagenet_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = probed(some_concrete)
    assert result.origin.kind == "imagenet"
    assert [epoch.epoch for epoch in result.history] == [0]
    assert result.metrics["test"]["accuracy"] >= 0.975
    some = sorted((some_concrete / "test/Positive").iterdir())[:12]
    explanations = list(result.classifier.explain(some, method="layercam"))
    assert len(explanations) == 12
    assert all(explanation.heatmap.max() > 0 for explanation in explanations)


@pytest.mark.torture
def test_cats_and_dogs_have_no_test_split(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    """Other classes, train and val only: nothing assumes cracks."""
    monkeypatch.chdir(tmp_path)
    result = probed(real_data / "cats_dogs")
    assert result.split == "val"
    assert result.metrics["val"]["accuracy"] > 0.85
    assert xai.main(["--data", str(real_data / "cats_dogs")]) == 0
    assert "cats (the default; choose with --type) in the val split" in capsys.readouterr().err
