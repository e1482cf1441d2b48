"""inference.py --all and xai.py --all: tables, overlays in folders, what stands in their rows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flights import TABLES, expected_files, run, table, written
from PIL import Image

import crackcam
import xai
from crackcam.batch import tasks
from crackcam.data import images
from crackcam.models import checkpoint
from crackcam.preprocessing import squash


def test_a_folder_tree_as_a_table(flight, capsys):
    code, out, err = run(capsys, "inference.py")
    assert code == 0
    assert out.splitlines()[0] == "32 images, 2 files not readable"
    rows = table(TABLES["inference.py"])
    assert list(rows[0]) == ["file", "true", "predicted", "p_Negative", "p_Positive", "error"]
    assert [row["file"] for row in rows] == expected_files()
    broken = {Path(row["file"]).name: row["error"] for row in rows if row["error"]}
    assert broken == {"readme.txt": "not an image", "torn.jpg": "truncated"}
    assert {row["predicted"] for row in rows if not row["error"]} == {"Negative", "Positive"}
    network, _ = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    for row in rows[::4]:
        if row["error"]:
            continue
        pixels = torch.from_numpy(squash(images.read_image(Path(row["file"])), 64).copy()).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            by_hand = network((pixels - mean) / std).softmax(1)[0]
        assert float(row["p_Positive"]) == pytest.approx(float(by_hand[1]), abs=2e-6)
    document = json.loads(TABLES["inference.py"].with_suffix(".json").read_text())
    assert (document["pictures"], document["unreadable"], document["accuracy"]) == (32, 2, None)
    assert len(document["checkpoint"]["sha256"]) == 64
    assert not TABLES["inference.py"].with_name("predictions_images.csv.part").exists()
    assert "warning: flight/test/Negative/torn.jpg: truncated" in err


@pytest.mark.parametrize("script", ["inference.py", "xai.py"])
def test_results_among_the_images_are_no_images(flight, capsys, script):
    """The same table again, a finished run to resume, and nothing of it for the next run."""
    flags = ["--output", "flight/found.csv", *(["--save-maps", "flight"] if script == "xai.py" else [])]
    assert run(capsys, script, *flags)[0] == 0
    before = written("flight")
    assert run(capsys, script, *flags)[0] == 0
    assert written("flight") == before
    code, _, err = run(capsys, script, *flags, "--resume")
    assert (code, "nothing to resume: flight/found.csv is complete" in err) == (0, True)
    code, out, _ = run(capsys, "inference.py", "--output", "flight/next.csv", "--report", "flight/report.html")
    assert (code, out.splitlines()[0]) == (0, "32 images, 2 files not readable")
    assert [row["file"] for row in table("flight/next.csv")] == [row["file"] for row in table("flight/found.csv")]
    code, _, err = run(
        capsys, "inference.py", "--output", "flight/next.csv", "--report", "flight/report.html", "--resume"
    )
    assert (code, "nothing to resume: flight/next.csv is complete" in err) == (0, True)


def test_json_lines_hold_the_same(flight, capsys):
    run(capsys, "inference.py")
    code, _, _ = run(capsys, "inference.py", "--output", "outputs/lines.jsonl")
    assert code == 0
    lines = [json.loads(line) for line in Path("outputs/lines.jsonl").read_text().splitlines()]
    for line, row in zip(lines, table(TABLES["inference.py"]), strict=True):
        assert line["file"] == row["file"]
        assert line.get("error", "") == row["error"]
        if "error" not in line:
            assert line["predicted"] == row["predicted"] == next(iter(line["probabilities"]))
            assert f"{line['probabilities']['Positive']:.6f}" == row["p_Positive"]


def test_an_overlay_of_each_image_in_shards(flight, capsys, monkeypatch):
    monkeypatch.setattr(tasks, "SHARD", 5)
    some = ["--image", "flight/test"]
    run(capsys, "inference.py", *some)
    code, out, _ = run(capsys, "xai.py", *some, "--save-maps", "maps")
    assert code == 0
    assert out.splitlines()[1] == "wrote outputs/xai_images_gradcam.csv, outputs/xai_images_gradcam, maps"
    rows, predictions = table(TABLES["xai.py"]), table(TABLES["inference.py"])
    assert [row["file"] for row in rows] == [name for name in expected_files() if name.startswith("flight/test/")]
    for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        assert (row["predicted"], row["error"]) == (prediction["predicted"], prediction["error"])
        if row["error"]:
            assert row["overlay"] == row["max"] == ""
            continue
        assert row["target"] == row["predicted"]
        assert float(row["probability"]) == pytest.approx(float(prediction[f"p_{row['predicted']}"]), abs=2e-6)
        overlay = Path(row["overlay"])
        assert overlay.parent == Path(f"outputs/xai_images_gradcam/{i // 5:05d}")
        image, heatmap = images.read_image(Path(row["file"])), np.load(row["map"])
        assert Path(row["map"]).parent == Path(f"maps/{i // 5:05d}")
        assert Image.open(overlay).format == "JPEG"
        assert images.read_image(overlay).shape == image.shape
        assert heatmap.shape == image.shape[:2]
        assert float(row["max"]) == pytest.approx(heatmap.max(), rel=0.05)
    assert len({row["overlay"] for row in rows if row["overlay"]}) == 12
    shown = [row for row in rows if row["overlay"]][::3]
    model, changes = crackcam.load("weights/model.safetensors", device="cpu"), []
    for row, explanation in zip(shown, model.explain([row["file"] for row in shown], "gradcam"), strict=True):
        drawn = np.asarray(explanation.overlay()).astype(int)
        assert np.abs(images.read_image(Path(row["overlay"])) - drawn).mean() < 3  # what JPEG loses
        changes.append(np.abs(images.read_image(Path(row["file"])) - drawn).mean())
        assert np.load(row["map"]) == pytest.approx(explanation.heatmap, rel=1e-3, abs=1e-6)
    assert max(changes) > 10
    assert max(len(list(shard.iterdir())) for shard in Path("outputs/xai_images_gradcam").iterdir()) == 5


def test_class_folders_explain_each_image_by_what_it_is_predicted_to_be(flight, capsys):
    code = xai.main(["--data", "flight", "--all", "--method", "eigencam", "--style", "sidebyside"])
    out, _ = capsys.readouterr()
    assert code == 0
    rows = table("outputs/xai_all_eigencam.csv")
    assert [row["true"] for row in rows] == ["Negative"] * 7 + ["Positive"] * 6
    assert all(row["target"] == row["predicted"] for row in rows)
    assert Image.open(rows[0]["overlay"]).width > 2 * Image.open(rows[0]["file"]).width
    right = sum(row["true"] == row["predicted"] for row in rows if not row["error"])
    assert f"12 images, accuracy {right / 12:.4f}, 1 file not readable" in out


def test_regions_stand_in_the_table(flight, capsys):
    code, _, err = run(capsys, "xai.py", "--style", "mask")
    assert code == 2
    assert "--style mask --all needs --threshold" in err
    code, _, _ = run(capsys, "xai.py", "--style", "mask", "--threshold", "0.01", "--type", "Positive")
    assert code == 2
    for path in Path("flight/train").rglob("*.jpg"):  # regions are drawn and measured twice, at the size of the image
        Image.open(path).resize((96, 96)).save(path)
    some = ["--image", "flight/train"]
    flags = [*some, "--style", "mask", "--method", "eigencam", "--save-maps", "maps", "--threshold"]
    eigencam = "outputs/xai_images_eigencam.csv"
    assert run(capsys, "xai.py", *flags, "1e-9")[0] == 0
    limit = round(float(np.median([float(row["max"]) for row in table(eigencam) if not row["error"]])), 4)
    assert run(capsys, "xai.py", *flags, str(limit))[0] == 0
    rows = [row for row in table(eigencam) if not row["error"]]
    assert len(rows) == 8
    assert {row["target"] for row in rows} == {"Positive"}
    assert {float(row["share"]) > 0 for row in rows} == {True, False}
    for row in rows[::3]:
        assert float(row["share"]) == pytest.approx((np.load(row["map"]) > limit).mean(), abs=1e-3)
        assert float(row["threshold"]) == limit
