"""inference.py: which pictures it takes, what it draws and writes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import inference
from crackcam.data import images
from crackcam.preprocessing import Preprocessing


def run(capsys, *flags):
    code = inference.main(list(flags))
    return code, *capsys.readouterr()


def shown():
    return [row["file"] for row in json.loads(Path("outputs/inference_Positive.json").read_text())["pictures"]]


def test_default_call_writes_a_grid_and_its_manifest(place, capsys):
    before = place.files("outputs")
    code, out, err = run(capsys)
    assert code == 0
    assert place.files("outputs") - before == {"outputs/inference_Positive.png", "outputs/inference_Positive.json"}
    assert "pictures: Positive (the default; choose with --type) in the test split of data, 6 files" in err
    assert "note: only 6 pictures there, 9 asked for" in err
    assert out.splitlines()[-1] == "wrote outputs/inference_Positive.png, outputs/inference_Positive.json"
    document = json.loads(Path("outputs/inference_Positive.json").read_text())
    assert document["schema"] == 1
    assert document["split"] == "test"
    assert len(document["checkpoint"]["sha256"]) == 64
    for row in document["pictures"]:
        assert row["true"] == "Positive"
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(row["probabilities"], key=row["probabilities"].get)


def test_every_picture_can_be_drawn_and_a_seed_draws_the_same(place, capsys):
    seen = set()
    for seed in range(8):
        run(capsys, "--num", "2", "--seed", str(seed))
        first = shown()
        run(capsys, "--num", "2", "--seed", str(seed))
        assert shown() == first
        assert len(set(first)) == 2
        seen |= set(first)
    assert seen == {str(p) for p in Path("data/test/Positive").iterdir()}


def test_first_class_where_there_is_no_positive(place, capsys):
    shutil.rmtree("data/test/Positive")
    code, _, err = run(capsys)
    assert code == 0
    assert "pictures: Negative (the default" in err


def test_wrong_pictures_are_marked(place, capsys):
    """The negatives, put into the Positive folder, come out wrong or right; the text and the frame say which."""
    code, out, _ = run(capsys, "--type", "Negative")
    rows = json.loads(Path("outputs/inference_Negative.json").read_text())["pictures"]
    wrong = [row["file"] for row in rows if row["predicted"] != "Negative"]
    assert [line.split()[0] for line in out.splitlines() if line.endswith("<- wrong")] == wrong
    assert f"{6 - len(wrong)} of 6 pictures right" in out


def test_all_pictures_of_a_class_as_a_table(place, capsys):
    code, out, _ = run(capsys, "--type", "Positive", "--all")
    assert code == 0
    with Path("outputs/predictions_Positive.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "true", "predicted", "p_Negative", "p_Positive", "error"]
    assert [row["file"] for row in rows] == sorted(str(p) for p in Path("data/test/Positive").iterdir())
    for row in rows:
        assert float(row["p_Negative"]) + float(row["p_Positive"]) == pytest.approx(1, abs=1e-5)
        assert (row["predicted"] == "Positive") == (float(row["p_Positive"]) > 0.5)
    right = sum(row["predicted"] == "Positive" for row in rows)
    assert f"6 pictures, accuracy {right / 6:.4f}" in out


def test_all_without_a_type_takes_every_class(place, capsys):
    code, out, _ = run(capsys, "--all", "--json", "--output", "table/here.csv", "--batch-size", "5")
    summary = json.loads(out)
    assert code == 0
    assert (summary["pictures"], summary["unreadable"], summary["table"]) == (12, 0, "table/here.csv")
    with Path("table/here.csv").open() as file:
        assert [row["true"] for row in csv.DictReader(file)] == ["Negative"] * 6 + ["Positive"] * 6


def test_table_and_grid_agree(place, capsys):
    """One picture at a time, in a batch, in the grid or in the table: the same probability."""
    run(capsys, "--precision", "fp32", "--num", "6")
    grid = {
        r["file"]: r["probabilities"]["Positive"]
        for r in json.loads(Path("outputs/inference_Positive.json").read_text())["pictures"]
    }
    run(capsys, "--precision", "fp32", "--all", "--type", "Positive", "--batch-size", "1")
    with Path("outputs/predictions_Positive.csv").open() as file:
        table = {row["file"]: float(row["p_Positive"]) for row in csv.DictReader(file)}
    assert grid == pytest.approx(table, abs=2e-6)


def test_broken_files_get_a_row_with_their_error(place, capsys):
    folder = Path("data/test/Positive")
    (folder / "cut.jpg").write_bytes(next(folder.iterdir()).read_bytes()[:1500])
    (folder / "empty.png").touch()
    code, out, err = run(capsys, "--all", "--type", "Positive")
    assert code == 0
    assert "2 files not readable" in out
    with Path("outputs/predictions_Positive.csv").open() as file:
        errors = {Path(row["file"]).name: row for row in csv.DictReader(file) if row["error"]}
    assert {name: row["error"] for name, row in errors.items()} == {"cut.jpg": "truncated", "empty.png": "empty file"}
    assert errors["cut.jpg"]["predicted"] == errors["cut.jpg"]["p_Positive"] == ""
    code, out, err = run(capsys, "--num", "20")
    assert code == 0
    assert len(shown()) == 6
    assert "warning: 2 files could not be read" in err


def test_nothing_readable_is_an_error(place, capsys):
    for path in Path("data/test/Positive").iterdir():
        path.write_bytes(b"\xff\xd8 broken")
    for flags in ([], ["--all", "--type", "Positive"]):
        code, _, err = run(capsys, *flags)
        assert code == 2
        assert "error: none of 6 files can be read as a picture" in err
    assert not Path("outputs/predictions_Positive.csv").exists()
    assert not [p for p in Path("outputs").iterdir() if p.name.startswith(".")]


def test_pictures_by_name(place, capsys):
    picture = images.read_image(sorted(Path("data/test/Positive").iterdir())[0])
    Image.fromarray(picture).save("bridge pier.jfif", "JPEG")
    code, out, _ = run(capsys, "--image", "bridge pier.jfif", "data/test/Negative", "--num", "3")
    assert code == 0
    document = json.loads(Path("outputs/inference_images.json").read_text())
    assert len(document["pictures"]) == 3
    assert all(row["true"] is None for row in document["pictures"])
    code, out, _ = run(capsys, "--image", "bridge pier.jfif", "bridge pier.jfif", "--num", "1")
    assert len(json.loads(Path("outputs/inference_images.json").read_text())["pictures"]) == 2


def test_a_split_that_training_held_out(place, capsys):
    code, _, err = run(capsys, "--split", "val")
    assert code == 0
    assert "Positive (the default; choose with --type) in the val split of data, 2 files" in err
    shutil.rmtree("data/test")
    code, _, err = run(capsys)
    assert code == 0
    assert "in the val split of data" in err


def test_same_input_as_in_training(trained):
    """What training feeds its network and what inference feeds it is the same array."""
    from crackcam import classifier
    from crackcam.data import pixels
    from crackcam.types import ModelCard

    files = {"Positive": sorted((trained.root / "data/test/Positive").iterdir())[:2]}
    in_training = pixels.load_split("test", ["Positive"], files, Preprocessing(64), 1).pixels
    network = classifier.LoadedModel(None, ModelCard("resnet18", ["Positive"], 64), None, Path())
    in_inference = classifier.to_pixels(network, [images.read_image(p) for p in files["Positive"]])
    assert np.array_equal(in_training, in_inference)


def test_plain_state_dict_with_arch_and_classes(place, capsys):
    import torch

    from crackcam.models import checkpoint

    tensors = checkpoint.read_tensors(Path("weights/model.safetensors"))
    torch.save(tensors, "weights/plain.pth")
    flags = ["--weights", "weights/plain.pth", "--arch", "resnet18", "--classes", "Negative,Positive"]
    code, _, _ = run(capsys, *flags)
    assert code == 0
    card = json.loads(Path("outputs/inference_Positive.json").read_text())
    assert card["checkpoint"]["file"] == "weights/plain.pth"
    code, _, err = run(capsys, "--weights", "weights/plain.pth")
    assert code == 2
    assert "say what it is with --arch and --classes" in err


def test_readme_in_every_folder_of_files():
    for folder in ("data", "weights", "outputs"):
        assert (ROOT / folder / "README.md").stat().st_size > 200
