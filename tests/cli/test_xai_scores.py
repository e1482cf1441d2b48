"""xai.py --masks, --metrics, --verify: tables, documents and figures of scores."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_xai_regions import store_thresholds

import xai
from crackcam.evaluation import baselines


def scores():
    return json.loads(Path("outputs/xai_Positive_scores.json").read_text())


def test_heatmaps_are_scored_against_masks(place, capsys):
    from sklearn.metrics import average_precision_score

    flags = ["--type", "Positive", "--masks", "data/masks", "--num", "3", "--save-maps", "maps"]
    assert xai.main([*flags, "--method", "gradcam,eigencam", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == scores()
    assert {path.name for path in Path("outputs").iterdir() if "scores" in path.name} == {
        "xai_Positive_scores.png", "xai_Positive_scores.csv", "xai_Positive_scores.json",
    }  # fmt: skip
    rows = {row["method"]: row for row in document["scores"]}
    assert set(rows) == {"gradcam", "eigencam", "random", "centre", "dark", "local darkness"}
    assert [row["baseline"] for row in document["scores"]] == [False] * 2 + [True] * 4
    stems = [Path(row["file"]).stem for row in document["pictures"]]
    masks = [np.asarray(Image.open(f"data/masks/{stem}.png")) > 0 for stem in stems]
    for method in ("gradcam", "eigencam"):
        maps = [np.load(f"maps/{stem}_{method}.npy") for stem in stems]
        each = [average_precision_score(m.ravel(), h.ravel()) for m, h in zip(masks, maps, strict=True)]
        pooled = average_precision_score(
            np.concatenate([m.ravel() for m in masks]), np.concatenate([h.ravel() for h in maps])
        )
        assert rows[method]["ap_each"] == pytest.approx(np.mean(each))
        assert rows[method]["ap"] == pytest.approx(pooled)
        assert rows[method]["pictures"] == 3
    fraction = np.mean([mask.mean() for mask in masks])
    assert rows["random"]["ap"] == pytest.approx(fraction, rel=0.1)
    assert rows["random"]["auroc"] == pytest.approx(0.5, abs=0.02)
    table = Path("outputs/xai_Positive_scores.csv").read_text().splitlines()
    assert table[0].startswith("method,baseline,pictures,ap,auroc")
    assert len(table) == 7


def test_a_fixed_threshold_is_scored_where_one_is_known(place, capsys):
    flags = ["--masks", "data/masks", "--num", "2", "--save-maps", "maps", "--json"]
    store_thresholds({"gradcam": {"Positive": 1e-4}})
    assert xai.main([*flags, "--method", "gradcam,eigencam"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in document["scores"]}
    truth, found = [], []
    for row in document["pictures"]:
        truth.append(np.asarray(Image.open(f"data/masks/{Path(row['file']).stem}.png")) > 0)
        found.append(np.load(row["maps"]["gradcam"]["file"]) > 1e-4)
    truth, found = np.stack(truth), np.stack(found)
    assert (truth & found).any()
    assert rows["gradcam"]["iou"] == pytest.approx((truth & found).sum() / (truth | found).sum())
    assert rows["gradcam"]["f1"] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    for unknown in ("eigencam", "dark"):  # never one that is chosen on the images scored
        assert rows[unknown]["f1"] is rows[unknown]["iou"] is None
    with Path(document["table"]).open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["gradcam"]["f1"]) == rows["gradcam"]["f1"]
    assert table["eigencam"]["f1"] == table["dark"]["iou"] == ""
    assert xai.main([*flags[:-1], "--method", "eigencam", "--threshold", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[4:8] == ["best", "F1", "F1", "IoU"]
    assert lines[3].split()[-5:-3] == ["-", "-"]


def test_the_table_of_scores_is_readable(place, capsys):
    store_thresholds({})
    assert xai.main(["--method", "gradcam", "--type", "Positive", "--masks", "data/masks", "--num", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["AP", "AUROC", "peak", "energy", "best", "F1", "AP", "per", "image"]
    assert lines[1].startswith("gradcam ")
    assert lines[2] == "-- model-free baselines"
    assert len(lines) == 3 + 4 + 1
    written = [f"outputs/xai_Positive_scores{suffix}" for suffix in (".png", ".json", ".csv")]
    assert lines[-1] == f"wrote {', '.join(written)}"
    assert all(Path(name).exists() for name in written)


def test_masks_that_do_not_fit(place, capsys):
    shutil.rmtree("data/masks")
    assert xai.main(["--method", "gradcam", "--type", "Positive", "--masks", "data/masks", "--num", "3"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no folder data/masks"
    assert not list(Path("outputs").glob("xai_*"))


def test_heatmaps_are_scored_against_the_model(place, capsys):
    flags = ["--metrics", "--num", "2", "--masks", "data/masks", "--refine", "lines"]
    assert xai.main(["--method", "gradcam", *flags]) == 0
    out = capsys.readouterr().out
    masked, faithful = out.split("wrote ")[0].split("deletion v")
    assert "AUROC" in masked
    lines = [line.split()[0] for line in faithful.splitlines()[1:]]
    assert lines[:2] == ["gradcam", "--"]
    assert len(lines) == 2 + len(baselines.BASELINES)
    tables = ["scores.csv", "scores_metrics.csv", "scores_metrics_images.csv"]
    assert out.endswith(f"{', '.join(f'outputs/xai_Positive_{name}' for name in tables)}\n")
    document = scores()
    with Path(document["metrics_table"]).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in document["metrics"]]
    assert {row["method"] for row in table} == {"gradcam", *baselines.BASELINES}
    rows = {row["method"]: row for row in document["metrics"]}
    assert rows["centre"]["randomised"] == pytest.approx(1)  # looks at no model
    assert rows["centre"]["instability"] == 0  # nor at the image
    assert abs(rows["gradcam"]["randomised"]) < 0.999
    with Path(document["metrics_images_table"]).open(newline="") as file:
        images = list(csv.DictReader(file))
    assert len(images) == 2 * len(table)
    assert {row["file"] for row in images} == {row["file"] for row in document["pictures"]}
    for row in table:
        each = [float(image["deletion"]) for image in images if image["method"] == row["method"]]
        assert 0 <= min(each) <= max(each) <= 1
        assert float(row["deletion"]) == pytest.approx(np.mean(each))
        assert float(row["deletion_standard_error"]) == pytest.approx(abs(each[0] - each[1]) / 2)
        assert 0 <= float(row["insertion"]) <= 1


def test_verify_compares_with_the_package(place, capsys):
    flags = ["--method", "gradcam,layercam,fem,cam", "--verify", "--num", "2", "--layer", "layer2"]
    assert xai.main(flags) == 0
    out = capsys.readouterr().out
    document = json.loads(Path("outputs/xai_Positive_compared.json").read_text())
    found = {row["method"]: row for row in document["verified"]}
    assert list(found) == ["gradcam", "layercam", "fem"]  # the package has no CAM
    for method in ("gradcam", "layercam"):
        assert list(found[method]) == ["method", "difference", "rank_correlation", "times_as_fast", "verdict"]
        assert found[method]["verdict"] == "same"
        assert found[method]["difference"] < 1e-3
        assert found[method]["rank_correlation"] > 0.999
        assert found[method]["times_as_fast"] > 0
    assert found["fem"]["verdict"].startswith("by design: the paper's formula")
    lines = out.splitlines()
    assert lines[0].split() == ["method", "difference", "rank", "corr.", "speed", "verdict"]
    assert [line.split()[0] for line in lines[1:4]] == ["gradcam", "layercam", "fem"]
