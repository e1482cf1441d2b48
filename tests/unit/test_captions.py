"""Captions say of each method what it does: of no class, of no layer."""

import pytest
from torch import nn

import pytorch_grad_cam
from crackcam.methods import METHODS
from crackcam.render import captions
from crackcam.render.report import content


@pytest.mark.parametrize("name", METHODS)
def test_the_table_knows_which_methods_ask_for_a_class_and_a_layer(name):
    engine = getattr(pytorch_grad_cam, METHODS[name].class_name)
    assert METHODS[name].of_class == getattr(engine, "explains_target", True)
    if METHODS[name].uses_layers:
        with pytest.raises(TypeError, match="target_layers"):
            engine(nn.Flatten())
    else:
        assert not getattr(engine(nn.Flatten()), "target_layers", None)


def test_class_free_methods_are_those_of_the_engine():
    free = {name for name, method in METHODS.items() if not method.of_class}
    assert free == {"eigencam", "kpcacam", "fem", "randomcam"}


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"gradcam": ["layer4"]}, "evidence for Negative, at layer4"),
        ({"eigencam": ["layer4"]}, "independent of the class, at layer4"),
        ({"fullgrad": []}, "evidence for Negative"),
        ({"evidence": ["layer2", "layer3"]}, "evidence for Negative, at all stages"),
        (
            {"gradcam": ["layer4"], "refinecam": ["layer3", "layer4"]},
            "evidence for Negative, at layer4; refinecam: at layer3, layer4",
        ),
        ({"eigencam": ["layer4"], "fem": ["layer4"]}, "independent of the class, at layer4"),
        (
            {"rise": [], "eigencam": ["layer4"]},
            "evidence for Negative, at layer4; eigencam: independent of the class; rise: no target layer",
        ),
        (
            {"gradcam": ["layer4"], "fem": ["layer4"], "layercam": ["layer4"], "rise": []},
            "evidence for Negative, at layer4; fem: independent of the class; rise: no target layer",
        ),
    ],
)
def test_titles(methods, text):
    assert captions.describe(methods, "Negative") == text


def test_notes():
    assert captions.note("gradcam", "cat", True) == "explains: cat"
    assert captions.note("gradcam", "cat", False) == "no evidence for cat"
    assert captions.note("eigencam", "cat", True) == "independent of the class"
    assert captions.note("eigencam", "cat", False) == "zero everywhere"


def test_titles_of_reports():
    def title(methods):
        return content._title({"methods": methods, "target": "predicted"})

    assert title({"gradcam": ["layer4"]}) == "Evidence for the predicted class"
    assert title({"eigencam": ["layer4"]}) == "Independent of the class"
    assert content._methods({"methods": {"fullgrad": []}, "seconds": {"fullgrad": 1.25}}) == "fullgrad, 1.2 s"
