"""On real photographs and real ImageNet weights, where CRACKCAM_DATA and CRACKCAM_WEIGHTS name them."""

import json
from pathlib import Path

import pytest

import train
import xai


@pytest.fixture
def some_concrete(real_data, tmp_path):
    """The first 80 photographs of each class to learn from, 30 to choose, 60 for testing: links."""
    for split, count in {"train": 80, "val": 30, "test": 60}.items():
        for name in ("Negative", "Positive"):
            folder = tmp_path / "concrete" / split / name
            folder.mkdir(parents=True)
            for file in sorted(Path(real_data, "concrete", split, name).iterdir())[:count]:
                (folder / file.name).symlink_to(file)
    return tmp_path / "concrete"


def probed(data, capsys):
    """Test accuracy of the linear probe on SqueezeNet's features."""
    flags = ["--data", str(data), "--arch", "squeezenet1_0", "--pretrained", "imagenet", "--epochs", "0"]
    assert train.main([*flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["test"]["accuracy"]


@pytest.mark.torture
def test_probe_on_all_concrete(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    """99.5 % of 1,000 held-out photographs."""
    monkeypatch.chdir(tmp_path)
    assert probed(real_data / "concrete", capsys) >= 0.995


def test_probe_on_concrete(some_concrete, imagenet_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert probed(some_concrete, capsys) >= 0.975
    assert xai.main(["--data", str(some_concrete), "--method", "layercam", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["pictures"]
    assert len(rows) == 9
    assert all(row["maps"]["layercam"]["max"] > 0 for row in rows)


@pytest.mark.torture
def test_cats_and_dogs_have_no_test_split(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    """Other classes, train and val only: nothing assumes cracks."""
    monkeypatch.chdir(tmp_path)
    data = str(real_data / "cats_dogs")
    assert train.main(["--data", data, "--arch", "squeezenet1_0", "--epochs", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "val"
    assert result["val"]["accuracy"] > 0.85
    assert xai.main(["--data", data]) == 0
    assert "pictures: cats (the default; choose with --type) in the val split" in capsys.readouterr().err
