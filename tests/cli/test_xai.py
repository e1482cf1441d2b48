"""xai.py: every method, targets, layers, maps on disk."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference
import xai
from crackcam.data import images
from crackcam.evaluation import baselines, regions
from crackcam.explain import heatmaps
from crackcam.explain.refinement import refine
from crackcam.methods import METHODS, QUICK, STYLES
from crackcam.models import checkpoint
from crackcam.preprocessing import Preprocessing, squash
from crackcam.render import overlays


def run(capsys, *flags):
    """Grad-CAM where a test does not say otherwise: its maps can be told by hand."""
    code = xai.main([*([] if "--method" in flags else ["--method", "gradcam"]), *flags])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_its_grid(place, capsys, method):
    number = 4 if method in QUICK else 1
    # FEM needs more places than the 2 x 2 of the last layer: none of four exceeds their mean by two deviations.
    layer = ["layer2"] if method == "fem" else ["layer2", "layer3", "layer4"] if method == "refinecam" else ["layer4"]
    flags = ["--layer", "layer2"] if method == "fem" else []
    code, out, err = run(capsys, "--method", method, "--save-maps", "maps", "--num", str(number), *flags)
    assert code == 0
    picture = Path(f"outputs/xai_Positive_{method}.png")
    assert out.startswith(f"wrote {picture}")
    assert Image.open(picture).format == "PNG"
    document = json.loads(picture.with_suffix(".json").read_text())
    assert (document["target"], document["precision"]) == ("Positive", "fp32")
    assert document["methods"] == {method: layer}
    assert len(document["pictures"]) == number
    peaks = []
    for row in document["pictures"]:
        heat = np.load(row["maps"][method]["file"])
        assert heat.dtype == np.float32
        assert heat.shape == images.read_image(Path(row["file"])).shape[:2]
        assert heat.min() >= 0
        assert Path(row["maps"][method]["file"]).name == Path(row["file"]).stem + ".npy"
        peaks.append(heat.max())
    assert np.isfinite(peaks).all()
    assert max(peaks) > 0
    assert {p.stem for p in Path("maps").iterdir()} == {Path(row["file"]).stem for row in document["pictures"]}


def test_tutorial_call(place, capsys):
    code, _, err = run(capsys, "--type", "Negative", "--method", "eigencam")
    assert code == 0
    assert {"outputs/xai_Negative_eigencam.png", "outputs/xai_Negative_eigencam.json"} <= place.files("outputs")


def test_same_pictures_as_inference(place, capsys):
    inference.main(["--num", "3", "--seed", "5"])
    run(capsys, "--num", "3", "--seed", "5")
    names = [
        [row["file"] for row in json.loads(Path(f"outputs/{name}_Positive{rest}.json").read_text())["pictures"]]
        for name, rest in (("inference", ""), ("xai", "_gradcam"))
    ]
    assert names[0] == names[1]


def test_saved_map_is_grad_cam_by_hand(place, capsys):
    """One picture: mean gradient per channel times activation, summed, rectified, enlarged; no library of CAMs."""
    run(capsys, "--save-maps", "maps", "--num", "1")
    row = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())["pictures"][0]
    model, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    picture = images.read_image(Path(row["file"]))
    x = torch.from_numpy(squash(picture, 64).copy()).permute(2, 0, 1)[None].float() / 255
    x = (x - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    kept = {}
    model.layer4.register_forward_hook(lambda m, i, o: kept.update(a=o) or o.retain_grad())
    model(x)[0, card.classes.index("Positive")].backward()
    activations = kept["a"]
    weights = activations.grad.mean(dim=(2, 3), keepdim=True)
    small = (weights * activations).sum(1, keepdim=True).relu()
    for size in [(64, 64), picture.shape[:2]]:
        small = torch.nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
    expected = small[0, 0].detach().numpy()
    found = np.load(row["maps"]["gradcam"]["file"])
    assert np.abs(found - expected).max() <= 1e-4 * max(expected.max(), 1e-12)


def test_targets(place, capsys):
    for flags, target in (([], "Positive"), (["--target", "Negative"], "Negative")):
        run(capsys, *flags)
        document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
        assert document["target"] == target
        assert {row["target"] for row in document["pictures"]} == {target}
    run(capsys, "--target", "predicted")
    document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert all(row["target"] == row["predicted"] for row in document["pictures"])


def test_named_pictures_explain_what_is_predicted(place, capsys):
    picture = str(sorted(Path("data/test/Negative").iterdir())[0])
    code, _, _ = run(capsys, "--image", picture)
    assert code == 0
    document = json.loads(Path("outputs/xai_images_gradcam.json").read_text())
    assert document["target"] == "predicted"
    assert document["type"] is None


def test_maps_of_the_two_classes_differ(place, capsys):
    maps = []
    for target in ("Positive", "Negative"):
        run(capsys, "--target", target, "--save-maps", target, "--num", "1")
        maps.append(np.load(next(Path(target).iterdir())))
    assert abs(maps[0] - maps[1]).max() > 0


def test_layers(place, capsys):
    code, out, _ = run(capsys, "--list-layers")
    assert code == 0
    assert "layer4  512 x 2 x 2  (default)" in out.splitlines()
    assert "layer2  128 x 8 x 8" in out.splitlines()
    assert len([line for line in out.splitlines() if line.endswith("(default)")]) == 1
    code, _, _ = run(capsys, "--layer", "layer3,layer4", "--method", "layercam")
    assert code == 0
    assert json.loads(Path("outputs/xai_Positive_layercam.json").read_text())["methods"] == {
        "layercam": ["layer3", "layer4"]
    }
    code, _, err = run(capsys, "--layer", "layer9")
    assert code == 2
    assert "no layer 'layer9' with a grid; there are: conv1, bn1, " in err
    assert "layer4.1.conv2" in err


def test_smoothing_changes_the_map_a_little(place, capsys):
    maps = {}
    for name in ("plain", "aug-smooth", "eigen-smooth"):
        flags = [] if name == "plain" else [f"--{name}"]
        run(capsys, *flags, "--layer", "layer3", "--num", "1", "--save-maps", name)
        maps[name] = np.load(next(Path(name).iterdir())).ravel()
    for name in ("aug-smooth", "eigen-smooth"):
        assert abs(maps[name] - maps["plain"]).max() > 0
    assert np.corrcoef(maps["aug-smooth"], maps["plain"])[0, 1] > 0.3


def test_pictures_of_the_same_name_are_not_overwritten(place, capsys):
    a, b = Path("a/x.jpg"), Path("b/x.png")
    for path in (a, b):
        path.parent.mkdir()
        Image.fromarray(images.read_image(sorted(Path("data/test/Positive").iterdir())[0])).save(path)
    code, _, err = run(capsys, "--image", str(a), str(b), "--save-maps", "maps")
    assert code == 2
    assert "same name" in err
    assert not Path("maps").exists()


def test_bf16_maps_agree_with_fp32(place, capsys):
    maps = []
    for precision in ("fp32", "bf16"):
        run(capsys, "--precision", precision, "--layer", "layer3", "--save-maps", precision)
        maps.append(np.stack([np.load(p) for p in sorted(Path(precision).iterdir())]).ravel())
    assert np.corrcoef(*maps)[0, 1] > 0.97


def test_geometry_of_a_wide_picture():
    """A map put back on a picture twice as wide as high: the hot cell is where it was."""
    heat = torch.zeros(4, 4)
    heat[1, 3] = 1
    whole = heatmaps.at_picture_size(heat, np.zeros((40, 80, 3), np.uint8), Preprocessing(4))
    assert whole.shape == (40, 80)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert 10 <= row < 20
    assert 60 <= column < 80


def test_overlay_leaves_cold_places_alone_and_colours_hot_ones():
    picture = np.full((2, 2, 3), 100, np.uint8)
    heat = np.array([[0, 0], [0, 1]], np.float32)
    over = overlays.draw_heatmap(picture, heat, overlays.choose_style("overlay", None))
    assert (over[0] == 100).all()
    assert over[1, 1, 0] > 200  # bright yellow
    assert over[1, 1, 2] < over[1, 1, 0]


def test_styles_by_hand():
    """A grey picture with a bright square in the middle, and heat that rises from left to right."""
    picture = np.full((60, 60, 3), 80, np.uint8)
    picture[20:40, 20:40] = 200
    heat = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (60, 1))

    def shown(name, colormap=None):
        return overlays.draw_heatmap(picture, heat, overlays.choose_style(name, colormap))

    jet = shown("sidebyside", "jet")
    assert jet[0, 0].tolist() == [0, 0, 128]  # the tutorials' look
    assert jet[0, -1].tolist() == [128, 0, 0]
    edges = shown("edges").astype(int)
    flat = np.rint(0.4 * 255 + 0.6 * 255 * overlays.choose_style("edges", None).colormap(heat)[..., :3])
    darker = (flat - edges).max(axis=2) > 90  # lines of the square, at its rim and nowhere else
    assert darker[18:42, 18:42].any()
    darker[17:43, 17:43] = False
    assert not darker.any()
    lines = (shown("contours") != picture).any(axis=2)
    for column in (15, 30, 45):  # heat of a quarter, a half, three quarters
        assert lines[30, column - 2 : column + 3].any()
    assert not lines[30, [5, 22, 37, 53]].any()


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_drawn(place, capsys, style):
    code, _, _ = run(capsys, "--style", style, "--num", "2", "--colormap", "viridis")
    assert code == 0
    width, height = Image.open("outputs/xai_Positive_gradcam.png").size
    assert (width / height > 2) == (style in ("edges", "sidebyside"))  # the picture beside the map
    code, _, _ = run(capsys, "--style", style, "--num", "2", "--method", "gradcam,eigencam")
    assert code == 0


def test_unknown_colormap(place, capsys):
    code, _, err = run(capsys, "--colormap", "infernal")
    assert code == 2
    assert "matplotlib has no colormap 'infernal'; close to it: inferno" in err


def test_empty_map_says_so(place, capsys, monkeypatch):
    nothing = np.full((6, 2), 0.5), [1] * 6, [torch.zeros(64, 64)] * 6
    monkeypatch.setattr(heatmaps, "explained", lambda *a: nothing)
    code, _, _ = run(capsys)
    assert code == 0
    rows = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())["pictures"]
    assert {row["maps"]["gradcam"]["max"] for row in rows} == {0.0}


def test_several_methods_share_a_picture(place, capsys):
    code, out, _ = run(capsys, "--method", "gradcam,eigencam,guidedgradcam", "--num", "3", "--save-maps", "maps")
    assert code == 0
    assert out == ("wrote outputs/xai_Positive_compared.png, outputs/xai_Positive_compared.json, and maps in maps\n")
    document = json.loads(Path("outputs/xai_Positive_compared.json").read_text())
    assert document["methods"] == {name: ["layer4"] for name in ("gradcam", "eigencam", "guidedgradcam")}
    stems = {Path(row["file"]).stem for row in document["pictures"]}
    assert {p.name for p in Path("maps").iterdir()} == {f"{s}_{m}.npy" for s in stems for m in document["methods"]}
    width, height = Image.open("outputs/xai_Positive_compared.png").size
    assert width > height  # four columns, three rows
    alone = run(capsys, "--method", "eigencam", "--num", "3", "--save-maps", "alone")[0]
    assert alone == 0
    for stem in stems:
        assert np.array_equal(np.load(f"alone/{stem}.npy"), np.load(f"maps/{stem}_eigencam.npy"))


def test_all_are_the_quick_ones(place, capsys):
    code, _, err = run(capsys, "--method", "all", "--num", "2")
    assert code == 0
    assert list(json.loads(Path("outputs/xai_Positive_compared.json").read_text())["methods"]) == QUICK
    assert {"gradcam", "ablationcam", "fullgrad", "smoothgradcam++"} <= {*QUICK}
    assert not {"scorecam", "rise", "sess", "smoothgrad"} & {*QUICK}


def test_an_unknown_method_lists_them(place, capsys):
    code, _, err = run(capsys, "--method", "gradcam,gradcamm")
    assert code == 2
    assert "no method 'gradcamm'; there are: best, all, gradcam, scorecam, " in err


def test_a_method_that_cannot_explain_the_network(place, capsys, monkeypatch):
    """CAM needs average pooling and one linear layer; here a ReLU stands between."""
    model, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    model.avgpool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Threshold(1.0, 0.0))
    monkeypatch.setattr(checkpoint, "load", lambda *a, **k: (model, card))
    code, _, err = run(capsys, "--method", "cam")
    assert code == 2
    assert "error: cam cannot explain this: CAM needs nothing but global average pooling" in err
    code, _, err = run(capsys, "--method", "cam,gradcam")
    assert code == 0
    assert "warning: left out cam cannot explain this" in err
    assert list(json.loads(Path("outputs/xai_Positive_compared.json").read_text())["methods"]) == ["gradcam"]


def test_guided_pictures_are_not_smoothed(place, capsys):
    code, _, err = run(capsys, "--method", "guidedbackprop", "--eigen-smooth")
    assert code == 2
    assert "makes pictures, not maps" in err


def test_verify_compares_with_the_package(place, capsys):
    code, out, _ = run(capsys, "--method", "gradcam,layercam,fem,cam", "--verify", "--num", "2", "--layer", "layer2")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_compared.json").read_text())
    found = {row["method"]: row for row in document["verified"]}
    assert list(found) == ["gradcam", "layercam", "fem"]  # the package has no CAM
    for method in ("gradcam", "layercam"):
        assert found[method]["verdict"] == "same"
        assert found[method]["difference"] < 1e-3
        assert found[method]["rank_correlation"] > 0.999
        assert found[method]["times_as_fast"] > 0
    assert found["fem"]["verdict"].startswith("by design: the paper's formula")
    lines = out.splitlines()
    assert lines[0].split() == ["method", "difference", "rank", "corr.", "speed", "verdict"]
    assert [line.split()[0] for line in lines[1:4]] == ["gradcam", "layercam", "fem"]


def test_verify_does_not_compare_what_is_smoothed(place, capsys):
    code, _, err = run(capsys, "--verify", "--aug-smooth")
    assert code == 2
    assert "leave --aug-smooth, --eigen-smooth, --scales and --fuse out" in err


# -- findings ----------------------------------------------------------------------------------------------------------


def calibrated(thresholds):
    """The checkpoint, with these thresholds."""
    path = Path("weights/model.safetensors")
    model, card = checkpoint.load(path, torch.device("cpu"))
    checkpoint.save(path, model, dataclasses.replace(card, thresholds=thresholds))


def test_findings_are_drawn_measured_and_tabled(place, capsys):
    flags = ["--style", "mask", "--layer", "layer2", "--num", "3", "--save-maps", "maps"]
    assert xai.main([*flags, "--method", "gradcam,guidedbackprop"]) == 0
    out, err = capsys.readouterr()
    names = [f"outputs/xai_Positive_compared{rest}" for rest in (".png", ".json", "_found.csv")]
    assert out == f"wrote {', '.join(names)}, and maps in maps\n"
    assert all(Path(name).exists() for name in names)
    assert err.count("no threshold is known for these maps of") == 2
    rows = json.loads(Path(names[1]).read_text())["pictures"]
    with Path(names[2]).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["file", "true", "predicted", "method", "threshold", "share", "length", "width", "boxes"]
    entries = [(row, method, entry) for row in rows for method, entry in row["maps"].items()]
    assert len(lines) == len(entries) == 6
    otsu = {method: entry["threshold"] for _, method, entry in entries}
    for line, (row, method, entry) in zip(lines, entries, strict=True):
        it = regions.measure(np.load(entry["file"]), otsu[method])  # at the picture's own size: 227 x 227
        assert {name: entry[name] for name in ("share", "length", "width", "boxes")} == it.as_row()
        assert [line[name] for name in ("file", "true", "predicted", "method")] == [
            row["file"], "Positive", row["predicted"], method,
        ]  # fmt: skip
        assert [float(line[name]) for name in ("threshold", "share", "length", "width")] == [
            entry[name] for name in ("threshold", "share", "length", "width")
        ]
        assert int(line["boxes"]) == len(entry["boxes"])
    assert any(entry["boxes"] for _, _, entry in entries)


def test_the_checkpoints_threshold_is_used(place, capsys):
    calibrated({"gradcam": {"Positive": 1e-30, "Negative": 1e9}})

    def found(*flags):
        assert xai.main(["--method", "gradcam", "--style", "mask", "--num", "2", *flags]) == 0
        rows = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())["pictures"]
        return [row["maps"]["gradcam"] for row in rows], capsys.readouterr().err

    low, err = found()
    assert {entry["threshold"] for entry in low} == {1e-30}
    assert "Otsu" not in err
    high, _ = found("--target", "Negative")
    assert [(entry["threshold"], entry["share"], entry["boxes"]) for entry in high] == [(1e9, 0, [])] * 2
    named, err = found("--threshold", "0.5")
    assert {entry["threshold"] for entry in named} == {0.5}
    assert "Otsu" not in err
    for other in (["--layer", "layer3"], ["--aug-smooth"]):  # maps of another unit
        entries, err = found(*other)
        assert "Otsu" in err
        assert not {entry["threshold"] for entry in entries} & {1e-30, 0.5}


def test_refined_maps_are_those_that_are_saved(place, capsys):
    for folder, flags in (("plain", []), ("refined", ["--refine", "guided"])):
        assert xai.main(["--method", "gradcam", "--num", "2", "--layer", "layer3", "--save-maps", folder, *flags]) == 0
    document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert document["refine"] == "guided"
    for row in document["pictures"]:
        name = Path(row["maps"]["gradcam"]["file"]).name
        plain, refined = np.load(f"plain/{name}"), np.load(f"refined/{name}")
        assert np.array_equal(refined, refine("guided", plain, images.read_image(Path(row["file"]))))
        assert not np.array_equal(plain, refined)
        assert row["maps"]["gradcam"]["max"] == refined.max()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "0.1"], "--threshold cuts the maps of one --method, for --style mask or --masks"),
        (["--threshold", "0.1", "--style", "mask", "--method", "gradcam,layercam"], "--threshold cuts the maps of one"),
        (["--threshold", "-1", "--style", "mask"], "'-1' is not a number from 0 up"),
        (["--refine", "crf"], "invalid choice: 'crf'"),
        (["--refine", "guided", "--verify"], "leave --refine out"),
        (
            ["--anatomy", "--style", "mask"],
            "leave --method, --masks, --metrics, --scales, --fuse, --report and --style mask out",
        ),
        (
            ["--anatomy", "--metrics"],
            "leave --method, --masks, --metrics, --scales, --fuse, --report and --style mask out",
        ),
    ],
)
def test_flags_of_findings_that_do_not_fit(place, capsys, flags, message):
    assert xai.main(flags) == 2
    assert message in capsys.readouterr().err


# -- scores ------------------------------------------------------------------------------------------------------------


def test_maps_are_scored_against_masks(place, capsys):
    from sklearn.metrics import average_precision_score

    flags = ["--type", "Positive", "--masks", "data/masks", "--num", "6", "--save-maps", "maps"]
    assert xai.main([*flags, "--method", "gradcam,eigencam", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {p.name for p in Path("outputs").iterdir() if "scores" in p.name} == {
        "xai_Positive_scores.png", "xai_Positive_scores.csv", "xai_Positive_scores.json",
    }  # fmt: skip
    rows = {row["method"]: row for row in document["scores"]}
    assert set(rows) == {"gradcam", "eigencam", "random", "centre", "dark", "local darkness"}
    assert [row["baseline"] for row in document["scores"]] == [False] * 2 + [True] * 4
    stems = [Path(row["file"]).stem for row in document["pictures"]]
    masks = [np.asarray(Image.open(f"data/masks/{stem}.png")) > 0 for stem in stems]
    for method in ("gradcam", "eigencam"):
        heats = [np.load(f"maps/{stem}_{method}.npy") for stem in stems]
        each = [average_precision_score(m.ravel(), h.ravel()) for m, h in zip(masks, heats, strict=True)]
        pooled = average_precision_score(
            np.concatenate([m.ravel() for m in masks]), np.concatenate([h.ravel() for h in heats])
        )
        assert rows[method]["ap_each"] == pytest.approx(np.mean(each))
        assert rows[method]["ap"] == pytest.approx(pooled)
        assert rows[method]["pictures"] == 6
    share = np.mean([m.mean() for m in masks])
    assert rows["random"]["ap"] == pytest.approx(share, rel=0.1)
    assert rows["random"]["auroc"] == pytest.approx(0.5, abs=0.02)
    table = Path("outputs/xai_Positive_scores.csv").read_text().splitlines()
    assert table[0].startswith("method,baseline,pictures,ap,auroc")
    assert len(table) == 7


def test_a_fixed_threshold_is_scored_where_one_is_known(place, capsys):
    flags = ["--masks", "data/masks", "--num", "4", "--save-maps", "maps", "--json"]
    calibrated({"gradcam": {"Positive": 1e-4}})
    assert xai.main([*flags, "--method", "gradcam,eigencam"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in document["scores"]}
    truth, found = [], []
    for row in document["pictures"]:
        truth.append(np.asarray(Image.open(f"data/masks/{Path(row['file']).stem}.png")) > 0)
        found.append(np.load(row["maps"]["gradcam"]["file"]) > 1e-4)
    truth, found = np.stack(truth), np.stack(found)
    assert rows["gradcam"]["iou"] == pytest.approx((truth & found).sum() / (truth | found).sum())
    assert rows["gradcam"]["f1"] == pytest.approx(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    for unknown in ("eigencam", "dark"):  # never one that is chosen on the pictures scored
        assert rows[unknown]["f1"] is rows[unknown]["iou"] is None
    with Path(document["table"]).open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["gradcam"]["f1"]) == rows["gradcam"]["f1"]
    assert table["eigencam"]["f1"] == table["dark"]["iou"] == ""
    assert xai.main([*flags[:-1], "--method", "eigencam", "--threshold", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[4:8] == ["best", "F1", "F1", "IoU"]
    assert lines[3].split()[-5:-3] == ["-", "-"]


def test_maps_are_scored_against_the_network(place, capsys):
    assert (
        xai.main(["--method", "gradcam", "--metrics", "--num", "1", "--masks", "data/masks", "--refine", "guided"]) == 0
    )
    out = capsys.readouterr().out
    masked, scored = out.split("wrote ")[0].split("deletion v")
    assert "AUROC" in masked
    assert [line.split()[0] for line in scored.splitlines()[1:]] == [
        "gradcam", "--", *[line.split()[0] for line in scored.splitlines()[3:]],
    ]  # fmt: skip
    assert out.endswith("outputs/xai_Positive_scores.csv, outputs/xai_Positive_scores_metrics.csv\n")
    document = json.loads(Path("outputs/xai_Positive_scores.json").read_text())
    with Path(document["metrics_table"]).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in document["metrics"]]
    assert {row["method"] for row in table} == {"gradcam", *baselines.BASELINES}
    rows = {row["method"]: row for row in document["metrics"]}
    assert rows["centre"]["randomised"] == pytest.approx(1)  # looks at no network
    assert rows["centre"]["instability"] == 0  # nor at the picture
    assert abs(rows["gradcam"]["randomised"]) < 0.999
    for row in table:
        assert 0 <= float(row["deletion"]) <= 1
        assert 0 <= float(row["insertion"]) <= 1


def test_the_table_of_scores_is_readable(place, capsys):
    calibrated({})
    assert xai.main(["--method", "gradcam", "--type", "Positive", "--masks", "data/masks", "--num", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["AP", "AUROC", "peak", "energy", "best", "F1", "AP", "a", "picture"]
    assert lines[1].startswith("gradcam ")
    assert lines[2] == "-- maps that know no network"
    assert len(lines) == 3 + 4 + 1
    written = [f"outputs/xai_Positive_scores{suffix}" for suffix in (".png", ".json", ".csv")]
    assert lines[-1] == f"wrote {', '.join(written)}"
    assert all(Path(name).exists() for name in written)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no folder data/masks"),
        (
            lambda folder: [p.unlink() for p in folder.glob("*.png")],
            "no mask in data/masks for 3 pictures, the first is",
        ),
        (
            lambda folder: [Image.new("L", (9, 7)).save(p) for p in folder.glob("*.png")],
            "is 9 x 7, its picture 227 x 227",
        ),
        (
            lambda folder: [
                Image.new("L", (227, 227), i % 2 * 255).save(p) for i, p in enumerate(folder.glob("*.png"))
            ],
            "the masks of these 3 pictures are empty or full: nothing to find",
        ),
        (lambda folder: [p.write_bytes(b"x") for p in folder.glob("*.png")], "cannot read the mask data/masks/"),
        (
            lambda folder: shutil.copytree(folder, folder / "again"),
            ".jpg: keep one in data/masks",
        ),
    ],
)
def test_masks_that_do_not_fit(place, capsys, spoil, message):
    spoil(Path("data/masks"))
    assert xai.main(["--method", "gradcam", "--type", "Positive", "--masks", "data/masks", "--num", "3"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_default_is_what_was_measured_to_be_best(place, capsys):
    assert xai.main(["--num", "2"]) == 0
    assert "best: --method layercam --stride 8 --fuse product" in capsys.readouterr().err
    document = json.loads(Path("outputs/xai_Positive_best.json").read_text())
    assert document["methods"] == {"layercam": ["layer2", "layer3", "layer4"]}
    assert (document["stride"], document["fuse"]) == (8, "product")


def test_best_does_without_what_a_network_cannot(place, capsys, monkeypatch):
    picture = next(Path("data/test/Positive").iterdir())
    assert xai.main(["--image", str(picture), "--arch", "vit_b_32", "--pretrained", "none"]) == 0
    assert "best: --method layercam\n" in capsys.readouterr().err


def test_evidence_needs_its_head(place, capsys):
    assert xai.main(["--method", "evidence"]) == 2
    assert "train with it" in capsys.readouterr().err
