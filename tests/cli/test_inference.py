"""inference.py: what it draws, writes and prints. Which images it takes: tests/unit/test_selection.py."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image

import inference
from crackcam.models import checkpoint


@pytest.fixture
def run(capsys):
    def call(*flags):
        code = inference.main(list(flags))
        return code, *capsys.readouterr()

    return call


def document(name="inference_Positive"):
    return json.loads(Path(f"outputs/{name}.json").read_text())


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_default_call_writes_a_grid_and_its_manifest(place, run):
    before = place.files("outputs")
    code, out, err = run()
    assert code == 0
    assert place.files("outputs") - before == {"outputs/inference_Positive.png", "outputs/inference_Positive.json"}
    assert "images: Positive (the default; choose with --type) in the test split of data, 6 files" in err
    assert "only 6 images available, 9 requested" in err
    assert out.splitlines()[-1] == "wrote outputs/inference_Positive.png, outputs/inference_Positive.json"
    found = document()
    assert list(found) == [
        "schema", "command", "type", "split", "seed", "device", "precision", "engine", "checkpoint", "classes",
        "versions", "pictures", "picture",
    ]  # fmt: skip
    assert (found["schema"], found["type"], found["split"], found["seed"]) == (1, "Positive", "test", 0)
    assert found["checkpoint"]["file"] == "weights/model.safetensors"
    assert len(found["checkpoint"]["sha256"]) == 64
    for row in found["pictures"]:
        assert list(row) == ["file", "true", "predicted", "probabilities", "tiles"]
        assert row["true"] == "Positive"
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(row["probabilities"], key=row["probabilities"].get)


def test_incorrect_images_are_marked(place, run):
    """Images of the other class, put into the folder, are predicted as they were there."""
    run("--type", "Negative")
    labels = {Path(row["file"]).read_bytes(): row["predicted"] for row in document("inference_Negative")["pictures"]}
    for path in Path("data/test/Negative").iterdir():
        shutil.copy(path, f"data/test/Positive/other_{path.name}")
    code, out, _ = run("--num", "20")
    assert code == 0
    rows = document()["pictures"]
    assert len(rows) == 12
    for row in rows:
        assert row["predicted"] == labels.get(Path(row["file"]).read_bytes(), row["predicted"])
    incorrect = [row["file"] for row in rows if row["predicted"] != "Positive"]
    assert incorrect
    assert [line.split()[0] for line in out.splitlines() if line.endswith("<- incorrect")] == incorrect
    assert f"{12 - len(incorrect)} of 12 images correct" in out.splitlines()


def test_all_images_of_a_class_as_a_table(place, run):
    code, out, _ = run("--type", "Positive", "--all")
    assert code == 0
    rows = table("outputs/predictions_Positive.csv")
    assert list(rows[0]) == ["file", "true", "predicted", "p_Negative", "p_Positive", "error"]
    assert [row["file"] for row in rows] == sorted(str(path) for path in Path("data/test/Positive").iterdir())
    for row in rows:
        assert float(row["p_Negative"]) + float(row["p_Positive"]) == pytest.approx(1, abs=1e-5)
        assert (row["predicted"] == "Positive") == (float(row["p_Positive"]) > 0.5)
    correct = sum(row["predicted"] == "Positive" for row in rows)
    assert out.splitlines() == [f"6 images, accuracy {correct / 6:.4f}", "wrote outputs/predictions_Positive.csv"]


def test_all_without_a_type_takes_every_class(place, run):
    code, out, _ = run("--all", "--json", "--output", "table/here.csv", "--batch-size", "5")
    summary = json.loads(out)
    assert code == 0
    assert list(summary) == ["type", "split", "pictures", "unreadable", "accuracy", "table"]
    assert (summary["type"], summary["split"]) == ("all", "test")
    assert (summary["pictures"], summary["unreadable"], summary["table"]) == (12, 0, "table/here.csv")
    assert [row["true"] for row in table("table/here.csv")] == ["Negative"] * 6 + ["Positive"] * 6


def test_table_and_grid_agree(place, run):
    """One image at a time, in a batch, in the grid or in the table: the same probability."""
    run("--precision", "fp32", "--num", "6")
    grid = {row["file"]: row["probabilities"]["Positive"] for row in document()["pictures"]}
    run("--precision", "fp32", "--all", "--type", "Positive", "--batch-size", "1")
    rows = {row["file"]: float(row["p_Positive"]) for row in table("outputs/predictions_Positive.csv")}
    assert len(grid) == 6
    assert grid == pytest.approx(rows, abs=2e-6)


def test_broken_files_get_a_row_with_their_error(place, run):
    folder = Path("data/test/Positive")
    (folder / "cut.jpg").write_bytes(next(folder.iterdir()).read_bytes()[:1500])
    (folder / "empty.png").touch()
    code, out, err = run("--all", "--type", "Positive")
    assert code == 0
    assert "2 files not readable" in out
    assert "warning: data/test/Positive/cut.jpg: truncated" in err
    errors = {Path(row["file"]).name: row for row in table("outputs/predictions_Positive.csv") if row["error"]}
    assert {name: row["error"] for name, row in errors.items()} == {"cut.jpg": "truncated", "empty.png": "empty file"}
    assert errors["cut.jpg"]["predicted"] == errors["cut.jpg"]["p_Positive"] == ""
    code, out, err = run("--num", "20")
    assert code == 0
    assert len(document()["pictures"]) == 6
    assert "warning: 2 files could not be read" in err


def test_nothing_readable_is_an_error(place, run):
    for path in Path("data/test/Positive").iterdir():
        path.write_bytes(b"\xff\xd8 broken")
    for flags in ([], ["--all", "--type", "Positive"]):
        code, out, err = run(*flags)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1] == "error: none of 6 files can be read as an image"
    assert not Path("outputs/predictions_Positive.csv").exists()
    assert not Path("outputs/predictions_Positive.csv.part").exists()
    assert not [path for path in Path("outputs").iterdir() if path.name.startswith(".")]


def test_images_by_name(place, run):
    Image.open(sorted(Path("data/test/Positive").iterdir())[0]).save("bridge pier.jfif", "JPEG")
    code, out, _ = run("--image", "bridge pier.jfif", "data/test/Negative", "--num", "3")
    assert code == 0
    rows = document("inference_images")["pictures"]
    assert [row["true"] for row in rows] == [None] * 3
    assert out.splitlines()[-2] == "3 images"
    run("--image", "bridge pier.jfif", "bridge pier.jfif", "--num", "1")
    found = document("inference_images")
    assert [row["file"] for row in found["pictures"]] == ["bridge pier.jfif"] * 2
    assert (found["type"], found["split"]) == (None, None)


def test_a_split_that_training_held_out(place, run):
    code, _, err = run("--split", "val")
    assert code == 0
    assert "Positive (the default; choose with --type) in the val split of data, 2 files" in err
    shutil.rmtree("data/test")
    code, _, err = run()
    assert code == 0
    assert "in the val split of data" in err


def test_plain_state_dict_with_arch_and_classes(place, run):
    torch.save(checkpoint.read_tensors(Path("weights/model.safetensors")), "weights/plain.pth")
    code, _, _ = run("--weights", "weights/plain.pth", "--arch", "timm/test_resnet", "--classes", "Negative,Positive")
    assert code == 0
    source = document()["checkpoint"]
    assert (source["file"], source["arch"]) == ("weights/plain.pth", "timm/test_resnet")
    code, _, err = run("--weights", "weights/plain.pth")
    assert code == 2
    assert "weights/plain.pth is a plain state dict: describe it with --arch and --classes" in err


def test_readme_in_every_folder_of_files():
    for folder in ("data", "weights", "outputs"):
        assert (ROOT / folder / "README.md").stat().st_size > 200


def test_all_classes_that_are_asked_for_are_printed(place, run):
    images = sorted(str(path) for path in Path("data/test/Positive").iterdir())[:2]
    flags = ("--image", *images, "--arch", "squeezenet1_1", "--pretrained", "none")
    code, out, _ = run(*flags, "--top-k", "5")
    assert code == 0
    for line, row in zip(out.splitlines(), document("inference_images")["pictures"], strict=False):
        path, _, classes = line.partition("  ")
        assert path == row["file"]
        assert classes == ", ".join(
            f"{name} {value:.1%}".replace("%", " %") for name, value in row["probabilities"].items()
        )
        assert len(row["probabilities"]) == 5
    _, out, _ = run(*flags)
    assert [line.count(" %") for line in out.splitlines()[:2]] == [1, 1]


def test_a_class_folder_is_found_however_it_is_spelled(place, run):
    code, out, err = run("--type", "positive", "--num", "1")
    assert code == 0
    assert "images: Positive in the test split of data" in err
    assert out.splitlines()[-1] == "wrote outputs/inference_Positive.png, outputs/inference_Positive.json"
