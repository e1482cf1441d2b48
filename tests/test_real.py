"""On real photographs and real ImageNet weights, where CRACKCAM_DATA and CRACKCAM_WEIGHTS name them."""

import json

import train
import xai


def test_probe_on_concrete(real_data, imagenet_weights, tmp_path, monkeypatch, capsys):
    """The linear probe on SqueezeNet's features alone: 99.5 % of 1,000 held-out photographs."""
    monkeypatch.chdir(tmp_path)
    flags = [
        "--data",
        str(real_data / "concrete"),
        "--arch",
        "squeezenet1_0",
        "--pretrained",
        "imagenet",
        "--epochs",
        "0",
    ]
    assert train.main([*flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test"]["accuracy"] >= 0.995
    assert xai.main(["--data", str(real_data / "concrete"), "--method", "layercam", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["pictures"]
    assert len(rows) == 9
    assert all(row["maps"]["layercam"]["max"] > 0 for row in rows)


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
