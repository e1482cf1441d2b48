"""The bundled network: what a fresh clone predicts for a photograph, with nothing trained yet."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import inference
import xai
from crackcam.data.synthetic import sample
from crackcam.models.checkpoint import BUNDLED

BALANCED_OTHER_SITES, ON_CONCRETE = 0.92, 0.99  # less than docs/explanation/experiments.md says: processors differ


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory):
    """A folder with class folders of generated images, and the masks of the cracked ones."""
    root = tmp_path_factory.mktemp("sample")
    masks = {}
    for index in range(16):
        name = "Positive" if index % 2 else "Negative"
        image, mask = sample.generate_image(np.random.default_rng([77, index]), cracked=index % 2 == 1)
        path = root / "data/test" / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        masks[str(path.relative_to(root))] = mask
    return root, masks


def test_it_is_small_and_names_no_folder():
    assert BUNDLED.stat().st_size <= 15e6
    with safe_open(BUNDLED, "pt") as opened:
        card = json.loads(opened.metadata()["crackcam"])
        assert {str(opened.get_tensor(name).dtype) for name in opened.keys()} <= {"torch.float16", "torch.int64"}  # noqa: SIM118
    assert card["arch"] == "timm/tf_efficientnet_lite2"
    assert card["classes"] == ["Negative", "Positive"]
    assert card["pretrained"] == "ImageNet weights of timm"
    texts = json.dumps(card).split('"')
    assert not [text for text in texts if text.startswith("/")]


def test_it_is_used_where_there_is_no_other(sample_folder, without_figures, monkeypatch, capsys):
    root, masks = sample_folder
    monkeypatch.chdir(root)
    assert inference.main(["--all"]) == 0
    assert "no weights/model.safetensors: using the bundled crack network" in capsys.readouterr().err
    rows = list(csv.DictReader(Path("outputs/predictions_all.csv").open()))
    assert np.mean([row["predicted"] == row["true"] for row in rows]) >= 0.8
    assert xai.main(["--type", "Positive", "--num", "8", "--save-maps", "maps"]) == 0
    assert "no weights/model.safetensors: using the bundled crack network" in capsys.readouterr().err
    found = []
    for row in json.loads(Path("outputs/xai_Positive_best.json").read_text())["pictures"]:
        heatmap = np.load(row["maps"]["evidence"]["file"])
        near = cv2.dilate(masks[row["file"]], np.ones((9, 9)))
        found.append(near[np.unravel_index(heatmap.argmax(), heatmap.shape)] > 0)
    assert len(found) == 8
    assert np.mean(found) >= 0.75


def test_a_checkpoint_of_ones_own_comes_first(place, capsys):
    assert inference.main(["--type", "Positive"]) == 0
    assert "bundled" not in capsys.readouterr().err


@pytest.mark.torture
def test_on_photographs_of_other_sites(real_data, tmp_path, monkeypatch, capsys):
    """What docs/explanation/experiments.md says of it, with some room for other processors."""
    monkeypatch.chdir(tmp_path)
    folder = real_data / "crack_masks"
    cracked = {
        row["stem"]: float(row["crack_fraction"]) > 0 for row in csv.DictReader((folder / "manifest.csv").open())
    }
    for path in (folder / "images").iterdir():
        place = tmp_path / "two/test" / ("Positive" if cracked[path.stem] else "Negative")
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path)
    assert inference.main(["--data", "two", "--all"]) == 0
    rows = list(csv.DictReader(Path("outputs/predictions_all.csv").open()))
    recall = {c: np.mean([row["predicted"] == c for row in rows if row["true"] == c]) for c in ("Negative", "Positive")}
    assert len(rows) == 174
    assert np.mean(list(recall.values())) >= BALANCED_OTHER_SITES
    assert inference.main(["--data", str(real_data / "concrete"), "--split", "test", "--all"]) == 0
    rows = list(csv.DictReader(Path("outputs/predictions_all.csv").open()))
    assert np.mean([row["predicted"] == row["true"] for row in rows]) >= ON_CONCRETE


def test_methods_of_the_engine_lie_on_the_image_too(sample_folder, without_figures, monkeypatch, capsys):
    """The network's input is padded; its heatmaps are not."""
    root, _ = sample_folder
    monkeypatch.chdir(root)
    flags = ["--type", "Positive", "--num", "1", "--save-maps", "maps"]
    assert xai.main([*flags, "--method", "gradcam", "--verify"]) == 2
    assert "does not support multiscale heads" in capsys.readouterr().err
    assert xai.main([*flags, "--method", "gradcam"]) == 0
    (row,) = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())["pictures"]
    assert np.load(row["maps"]["gradcam"]["file"]).shape == (sample.SIDE, sample.SIDE)
    assert xai.main(["--type", "Positive", "--num", "1", "--anatomy", "--method", "gradcam"]) == 0
