"""Predictions, regions, and the cards of models."""

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from crackcam.errors import UserError
from crackcam.preprocessing import Preprocessing
from crackcam.sizes import CrackWidth, Scale
from crackcam.types import Detection, ModelCard, Prediction, Region

MANY = [f"{kind} {number}" for kind in ("cat", "dog") for number in range(100)]


def test_a_prediction_has_the_highest_probability_first():
    found = Prediction.of(["a", "b", "c"], [0.2, 0.5, 0.3], Path("x.jpg"), "c")
    assert (found.label, found.confidence, found.path, found.true) == ("b", 0.5, Path("x.jpg"), "c")
    assert list(found.probabilities.items()) == [("b", 0.5), ("c", 0.3), ("a", 0.2)]
    assert found.wrong
    assert found.top(2) == {"b": 0.5, "c": 0.3}
    head = {"file": "x.jpg", "true": "c", "predicted": "b"}
    assert found.to_dict(1) == {**head, "probabilities": {"b": 0.5}, "tiles": 1}
    with pytest.raises(FrozenInstanceError):
        found.label = "a"


def test_of_equal_probabilities_the_first_class_is_predicted():
    """As argmax, which chooses the class that is explained."""
    assert Prediction.of(["a", "b", "c"], [0.3, 0.35, 0.35]).label == "b"


def test_a_prediction_without_file_and_true_class():
    found = Prediction.of(["a", "b"], [1.0, 0.0])
    assert not found.wrong
    probabilities = {"a": 1.0, "b": 0.0}
    head = {"file": None, "true": None, "predicted": "a"}
    assert found.to_dict() == {**head, "probabilities": probabilities, "tiles": 1}
    assert not Prediction.of(["a", "b"], [1.0, 0.0], true="a").wrong
    json.dumps(found.to_dict())


def test_of_many_classes_five_are_reported():
    found = Prediction.of(MANY, [1 / (number + 1) for number in range(200)])
    assert list(found.top()) == MANY[:5]
    assert len(found.top(7)) == 7
    assert len(found.to_dict()["probabilities"]) == 5
    assert len(found.probabilities) == 200


def test_a_loop_over_one_result():
    found = Prediction.of(["a", "b"], [1.0, 0.0])
    assert [each is found for each in found] == [True]


def test_regions_and_detections():
    region = Region((1, 2, 30, 4), 90, 29.987, 3.0013)
    assert region.to_dict() == {
        "number": 1, "box": [1, 2, 30, 4], "area": 90, "length": 29.99, "width": 3.0, "peak": 0.0, "polygons": [],
        "crack": None, "mm": None, "width_class": None,
    }  # fmt: skip
    assert region.description() == "30.0 px long"
    assert Region((1, 2, 30, 4), 90, 29.987, 3.0013) == region
    assert Detection(1, "person", 0.9, (0, 1, 2, 3)) == Detection(1, "person", 0.9, (0, 1, 2, 3))


def test_a_region_with_sizes_of_its_crack():
    crack = CrackWidth(3.14159, 4.0, 5.5, (7, 8), 12.5, 80.24, 74)
    polygon = (1, 2, 1, 6, 31, 6, 31, 2)
    region = Region((1, 2, 30, 4), 120, 30.0, 4.0, crack, 0.97123456789, (polygon,), "from 1 mm", Scale(0.25), 3)
    found = json.loads(json.dumps(region.to_dict()))
    assert found["crack"] == {
        "mean": 3.14, "p95": 4.0, "maximum": 5.5, "place": [7, 8], "orientation": 12.5, "length": 80.24, "measured": 74,
    }  # fmt: skip
    assert found["mm"] == {"length": 20.06, "mean": 0.785, "p95": 1.0, "maximum": 1.375}
    assert (found["number"], found["peak"], found["width_class"]) == (3, 0.971235, "from 1 mm")
    assert found["polygons"] == [list(polygon)]
    assert region.description() == "20.1 mm long, width 1.00 mm"
    assert replace(region, scale=None).description() == "80.2 px long, width 4.0 px"
    narrow = replace(region, crack=CrackWidth(None, None, None, (7, 8), 0.0, 412.4, 9), scale=None)
    assert narrow.description() == "412 px long, width below 2 px"
    assert narrow.to_dict()["crack"]["mean"] is None
    assert narrow.to_dict()["mm"] is None
    assert replace(narrow, scale=Scale(0.1)).to_dict()["mm"] == {
        "length": 41.24, "mean": None, "p95": None, "maximum": None,
    }  # fmt: skip
    unmeasured = replace(region, crack=CrackWidth(None, None, None, None, 0.0, 30.0, 0))
    assert unmeasured.description() == "7.50 mm long, width not measurable"


def test_a_class_by_name_or_index():
    card = ModelCard("resnet18", ["Negative", "Positive", "0"], 64)
    assert [card.class_index(text) for text in ("Positive", "positive", "NEGATIVE", "1", "0")] == [1, 1, 0, 1, 2]
    for text in ("Maybe", "3", "-1", "", "\x1b[31m"):
        with pytest.raises(UserError) as caught:
            card.class_index(text)
        assert str(caught.value) == f"no class {text!r} to explain; available: predicted, Negative, Positive, 0"


def test_a_class_among_many():
    card = ModelCard("resnet18", MANY, 64)
    for text, similar in (("dog 9", "dog 9"), ("DOG", "dog 0, dog 1, dog 2, dog 3, dog 4"), ("kat 77", "cat 77")):
        if text == "dog 9":
            assert card.class_index(text) == 109
            continue
        with pytest.raises(UserError) as caught:
            card.class_index(text)
        message = f"no class {text!r} to explain; available: predicted, similar: {similar}"
        assert str(caught.value).startswith(message)
        assert str(caught.value).endswith("; or an index below 200")


def test_what_a_card_knows():
    card = ModelCard("resnet18", ["a", "b"], 64, resize=80, interpolation="bicubic", mean=[0.5] * 3, std=[0.25] * 3)
    assert card.preprocessing == Preprocessing(64, 80, "bicubic", None, (0.5,) * 3, (0.25,) * 3)
    assert (card.class_summary, card.many_classes, card.knows_class_folders) == ("a, b", False, True)
    many = ModelCard("resnet18", MANY, 64)
    assert (many.class_summary, many.many_classes, many.knows_class_folders) == ("200 classes", True, False)
    assert ModelCard("resnet18", MANY, 64, training={"epochs": 1}).knows_class_folders
    detector = ModelCard("fasterrcnn_resnet50_fpn", ["a", "b"], None)
    assert not detector.knows_class_folders
    assert detector.preprocessing == Preprocessing()
