"""Text for people: names that are spelled alike, lines, durations."""

import pytest

from crackcam.errors import UserError
from crackcam.methods import METHODS, parse_methods
from crackcam.text import columns, duration, match_name, shorten, wrap
from crackcam.types import ModelCard


@pytest.mark.parametrize("text", ["positive", "POSITIVE", "Positive", "posi-tive", "Ｐositive"])
def test_a_class_is_found_however_it_is_spelled(text):
    assert match_name(text, ["Negative", "Positive"]) == "Positive"
    assert ModelCard("resnet18", ["Negative", "Positive"], 64).class_index(text) == 1


def test_only_one_name_can_be_meant():
    assert match_name("cat", ["Cat", "CAT"]) is None
    assert match_name("CAT", ["Cat", "CAT"]) == "CAT"
    with pytest.raises(UserError, match="no class 'cat'"):
        ModelCard("resnet18", ["Cat", "CAT"], 64).class_index("cat")


def test_unicode_forms_of_one_name():
    assert match_name("Bru\u0308che", ["Br\u00fcche", "Risse"]) == "Br\u00fcche"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Eigen-CAM", "eigencam"),
        ("Grad-CAM++", "gradcam++"),
        ("GradCAMPlusPlus", "gradcam++"),
        ("KPCA_CAM", "kpcacam"),
        ("Integrated Gradients", "integratedgradients"),
        ("BEST", "best"),
    ],
)
def test_a_method_is_found_however_it_is_spelled(text, name):
    assert parse_methods(text) == (name,)


def test_no_spelling_names_two_methods():
    assert parse_methods(",".join(name.upper() for name in METHODS)) == tuple(METHODS)
    for text in ("", "gradcam+", "eigen"):
        with pytest.raises(ValueError, match="not a method"):
            parse_methods(text)


@pytest.mark.parametrize("length", [7, 20, 33, 100])
def test_wrapped_lines_hold_all_of_a_text(length):
    text = "evidence for a_class/of-a-name in the test split, at features.0.conv_and_something"
    lines = wrap(text, length)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(columns, lines)) <= length


def test_wide_characters_count_twice():
    assert wrap("猫" * 7, 6) == ["猫" * 3, "猫" * 3, "猫"]
    assert columns(shorten("猫" * 30, 16)) <= 16
    assert shorten("a" * 5 + "b" * 20, 16) == "aaaaa…" + "b" * 10


def test_dollars_of_wrapped_lines_are_escaped():
    assert wrap("$x$", 80) == [r"\$x\$"]


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.25 s"), (45, "45 s"), (150, "2 min"), (12_000, "3 h 20 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
