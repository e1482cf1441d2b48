"""Any class folders: two, three and twelve classes, names in any script, every layout, unrelated files."""

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inference
import train
import xai
from crackcam.errors import UserError
from crackcam.types import ModelCard

FLAGS = [
    "--arch", "timm/test_resnet", "--pretrained", "none", "--image-size", "32", "--epochs", "1", "--batch-size", "8", "--workers", "0",
]  # fmt: skip
NAMES = [
    "Füße", "with space", "猫", "10", "9", "-dash", "a.b", "Ωmega", "naïve café", "$x$", "UPPER", "percent %d",
]  # fmt: skip


def fill(folder, hue, count, seed):
    """Images of one colour, with noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, rng.uniform(0.6, 0.9)))
        Image.fromarray(np.clip(rng.normal(colour, 25, (40, 40, 3)), 0, 255).astype(np.uint8)).save(folder / f"{i}.png")


def result_of(main, capsys, *flags):
    code = main([*flags, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.torture) for count in (2, 12))])
def test_classes_of_any_number_and_name(tmp_path, monkeypatch, capsys, count):
    monkeypatch.chdir(tmp_path)
    names = NAMES[:count]
    for i, name in enumerate(names):
        for split, number in {"train": 8 + 10 * (i == 0), "test": 3}.items():  # unbalanced
            fill(Path("any", split, name), i / count, number, i)
    result, _ = result_of(train.main, capsys, "--data", "any", *FLAGS)
    assert result["classes"] == sorted(names)
    assert set(result["test"]["per_class"]) == set(names)
    assert result["test"]["per_class"]["Füße"]["pictures"] == 3
    for name in names[:6]:
        found, _ = result_of(inference.main, capsys, "--data", "any", f"--type={name}")
        assert Path(f"outputs/inference_{name}.png").exists()
        assert len(found["pictures"]) == 3
        for row in found["pictures"]:
            assert set(row["probabilities"]) == set(names)
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    found, err = result_of(xai.main, capsys, "--data", "any", "--target", names[-1])
    first = sorted(names)[0]
    assert f"images: {first} (the default; choose with --type)" in err
    assert {row["target"] for row in found["pictures"]} == {names[-1]}
    assert Path(f"outputs/xai_{first}_best.png").exists()
    assert inference.main(["--data", "any", "--all"]) == 0
    header = Path("outputs/predictions_all.csv").read_text("utf-8-sig").splitlines()[0]
    assert header == ",".join(["file", "true", "predicted", *(f"p_{name}" for name in sorted(names)), "error"])


@pytest.mark.parametrize(("text", "index"), [("b", 1), ("B", 1), ("1", 0), ("0", 0), ("2", 2)])
def test_a_class_by_its_name_before_its_index(text, index):
    assert ModelCard("resnet18", ["1", "b", "c"], 64).class_index(text) == index


@pytest.mark.parametrize("text", ["3", "-1", "", "1.0", "9" * 5000])
def test_unknown_classes(text):
    with pytest.raises(UserError, match="available: predicted, 1, b, c"):
        ModelCard("resnet18", ["1", "b", "c"], 64).class_index(text)


@pytest.mark.torture
def test_three_colours_are_learned(tmp_path, monkeypatch, capsys):
    """The models of these tests do learn: names and indices are not merely copied."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["c", "a", "b"]):
        fill(Path("data/train", name), i / 3, 24, i)
        fill(Path("data/test", name), i / 3, 6, 10 + i)
    result, _ = result_of(train.main, capsys, *FLAGS, "--epochs", "10")
    assert result["test"]["accuracy"] >= 0.9
    found, _ = result_of(inference.main, capsys, "--type", "b")
    assert sum(row["predicted"] == "b" for row in found["pictures"]) >= 5


LAYOUTS = {
    "train, val, test": (["train/{}", "val/{}", "test/{}"], "test", set()),
    "train, test": (["train/{}", "test/{}"], "test", {"val"}),
    "train, val": (["train/{}", "val/{}"], "val", set()),
    "train": (["train/{}"], "val", {"val"}),
    "plain": (["{}"], "test", {"val", "test"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, without_figures, monkeypatch, capsys, layout):
    monkeypatch.chdir(tmp_path)
    folders, scored, held_out = LAYOUTS[layout]
    for number, folder in enumerate(folders):
        for i, name in enumerate(["cats", "dogs"]):
            fill(Path("data", folder.format(name)), i / 2, 6, 10 * number + i)
            fill(Path("data", folder.format(name), "nested", "deeper"), i / 2, 1, 10 * number + i)
        fill(Path("data", folder.format(".hidden")), 0, 1, 0)
        Path("data", folder.format("cats"), ".DS_Store").write_text("not an image")
    result, _ = result_of(train.main, capsys, *FLAGS)
    assert result["classes"] == ["cats", "dogs"]
    assert result["split"] == ("test" if scored == "test" else "val")
    found, err = result_of(inference.main, capsys, "--type", "dogs", "--num", "100")
    assert found["split"] == scored
    assert f"in the {scored} split of data" in err
    files = {row["file"] for row in found["pictures"]}
    assert all("dogs" in file for file in files)
    assert len(files) == (7 if scored not in held_out else 1)
    again, _ = result_of(xai.main, capsys, "--type", "dogs", "--num", "100", "--method", "guidedbackprop")
    assert {row["file"] for row in again["pictures"]} == files
