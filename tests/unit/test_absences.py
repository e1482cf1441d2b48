"""Classes that are the absence of others have no regions: which they are, and what is outlined instead."""

import math

import numpy as np
import pytest
from small_models import Bright, bright_corner

import crackcam
from crackcam.config import ExplainConfig
from crackcam.explain.thresholds import known_threshold
from crackcam.types import ModelCard

ABSENT = [
    "Negative", "negatives", "background", "BACKGROUND", "none", "normal", "good", "OK", "sound", "intact", "healthy", "clean", "undamaged",
    "uncracked", "no crack", "no_crack", "No-Crack", "nocrack", "non-cracked", "noncrack", "not cracked", "without crack", "crack-free", "defect_free",
]  # fmt: skip
PRESENT = [
    "Positive",
    "crack",
    "cracked",
    "spalling",
    "notch",
    "nodule",
    "noise",
    "goods train",
    "sounder",
    "okapi",
    "normality",
    "free",
]


@pytest.mark.parametrize("name", ABSENT)
def test_names_of_absences(name):
    assert ModelCard("x", [name, "crack"], 8).absences == [name]


@pytest.mark.parametrize("name", PRESENT)
def test_names_of_things(name):
    assert ModelCard("x", [name, "Negative"], 8).absences == ["Negative"]


def test_a_threshold_of_0_is_that_of_a_map_that_was_masked_out():
    card = ModelCard("x", ["a", "b", "c"], 8, thresholds={"evidence": {"a": 0.3, "b": 0.0, "c": 0.2}})
    assert card.absences == ["b"]


def test_where_all_are_absences_none_is():
    assert ModelCard("x", ["good", "normal"], 8).absences == []


def test_the_bundled_network():
    assert crackcam.load(device="cpu").card.absences == ["Negative"]


def classifier(classes):
    plain = crackcam.Preprocessing(size=16, mean=(0, 0, 0), std=(1, 1, 1))
    return crackcam.Classifier(Bright(), classes, plain, device="cpu")


@pytest.mark.parametrize("threshold", [None, 1e-6])
def test_nothing_is_outlined_of_an_absence(threshold):
    model, image = classifier(["cracked", "sound"]), bright_corner()  # "sound" is what is bright here
    assert known_threshold(ExplainConfig(threshold=threshold), model.card, "gradcam", "sound") == math.inf
    found = model.explain(image, "gradcam", target="sound", threshold=threshold)
    assert found.heatmap.max() > 1e-6
    assert found.regions() == []
    assert found.to_dict()["regions"] == []
    assert found.to_dict()["threshold"] is None
    assert np.array_equal(np.asarray(found.overlay("mask", side=48)), image)


def test_what_is_there_is_outlined():
    model, image = classifier(["sound", "cracked"]), bright_corner()
    (region,) = model.explain(image, "gradcam", target="cracked").regions()
    assert region.box[:2] == (0, 0)
    assert 0.9 * 24 * 16 < region.area < 1.3 * 24 * 16
