"""Arguments that nobody should give, to every flag of the three scripts: parsed, or one line and exit 2."""

import argparse
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inference
import train
import xai
from crackcam.errors import UserError

SCRIPTS = {"train": train, "inference": inference, "xai": xai}
NASTY = [
    "", " ", ",", ",,", "\t", "\n", "nan", "NaN", "-nan", "inf", "-inf", "1e309", "-1e309", "0", "-0", "-1", "0.0", "1e-300", "0x10",
    "1_0", "１２", "٣", "1" * 30, "9" * 5000, "-9223372036854775809", "18446744073709551616", "2147483648", "1,nan", "own,own,",
    "1e3", ".", "..", "/", "a" * 5000, "a/" * 2500, "\x1b]0;owned\x07", "\u202e", "\udcff", "\ud800", "a\0b", "💥", "--", "-", "=",
    "(", "(?P<", "a{99999999999}", "(" * 5000, "a,a", "all", "all,all", "best,gradcam", "predicted", "cuda:99", "meta", "cpu:-1",
    "x.png", "x.html", ".html", "x.safetensors", "%s", "%(prog)s", "{}", "$(id)", "@/etc/passwd", "timm/", "timm/hf_hub:a/b",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(NASTY), st.integers().map(str), st.floats().map(str), st.text(max_size=20),
    st.text("\x1b\n\r\0\udc80,.-0123456789einfa()*", max_size=12),
)  # fmt: skip


PARSERS = {name: script.build_parser() for name, script in SCRIPTS.items()}


def flags_of(script):
    return [
        action
        for action in PARSERS[script]._actions
        if action.option_strings and not isinstance(action, argparse._HelpAction)
    ]


EVERY_FLAG = [(script, action.option_strings[0]) for script in SCRIPTS for action in flags_of(script)]


def parsed(script, argv):
    """What the parser makes of it; None where it says in a line why not."""
    try:
        return PARSERS[script].parse_args(argv)
    except UserError:
        return None


def is_sane(value):
    """What a parsed value may be: bounded numbers, possible names."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(is_sane, value))
    if isinstance(value, Path):
        return b"\0" not in os.fsencode(value)
    if isinstance(value, int | float):
        return math.isfinite(value) and 0 <= value <= 1e12
    return value is None or isinstance(value, str)


@pytest.mark.parametrize(("script", "flag"), EVERY_FLAG)
def test_any_value_of_any_flag_is_taken_or_refused_in_words(script, flag):
    action = next(action for action in flags_of(script) if flag in action.option_strings)

    def check(value):
        found = parsed(script, [f"{flag}={value}"])
        if found is not None:
            assert action.nargs != 0, "a switch takes no value"
            assert is_sane(getattr(found, action.dest)), value

    for value in NASTY:
        check(value)
    settings(max_examples=20, deadline=None, derandomize=True, database=None)(given(VALUES)(check))()


@pytest.mark.parametrize("script", SCRIPTS)
@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_line_is_parsed_or_refused_in_words(script, data):
    names = [name for of, name in EVERY_FLAG if of == script]
    words = st.one_of(st.sampled_from(names), VALUES)
    argv = data.draw(st.lists(words, max_size=6))
    if "-h" not in argv and not any(word.startswith("--h") for word in argv):
        parsed(script, argv)


@pytest.mark.parametrize(("script", "flag"), EVERY_FLAG)
def test_a_wrong_value_is_one_line_and_exit_2(script, flag, capsys):
    """Through main: what is wrong is said before anything is read or written, and no terminal obeys it."""
    for value in ("", "\x1b]0;owned\x07\nerror: no", "nan", "-1"):
        if parsed(script, [f"{flag}={value}"]) is not None:
            continue
        assert SCRIPTS[script].main([f"{flag}={value}"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "\x1b" not in err


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        ("train", ["--image-size", "8", "--arch", "squeezenet1_1"], "does not accept 8 px inputs"),
        ("train", ["--device", "meta"], "--device meta is not available here"),
        ("train", ["--device", "cuda:99"], "--device cuda:99 is not available here"),
        ("train", ["--seed", "4294967295", "--arch", "timm/levit_128s", "--image-size", "64"], "64 px"),
        ("inference", ["--arch", "resnet18", "--pretrained", "none"], "has classes of its own"),
        ("inference", ["--resume"], "--resume continues a run of --all"),
        ("inference", ["--image", "data", "--split", "test"], "leave --type and --split out"),
        ("inference", ["--pretrained", "none"], "leave --pretrained none out"),
        ("inference", ["--classes", "a,b"], "drop --arch and --classes"),
        ("xai", ["--anatomy", "--masks", "data"], "leave"),
        ("xai", ["--refine", "lines", "--verify"], "leave --refine out"),
        ("xai", ["--all", "--metrics"], "leave"),
        ("xai", ["--colormap", "\x1b[31m"], "colormap"),
        ("xai", ["--layer", "\x1b[31m"], "no layer '"),
        ("xai", ["--target", "\x1b[31m"], "no class '"),
        ("xai", ["--type", "../train/Positive"], "no class '../train/Positive'"),
        ("xai", ["--type", ""], "argument --type: '' is empty"),
    ],
)
def test_conflicts_that_only_a_run_shows(place, capsys, script, argv, message):
    before = {folder: place.files(folder) for folder in ("data", "weights", "outputs")}
    assert SCRIPTS[script].main(["--pretrained", "none", *argv] if script == "train" else argv) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert out == ""
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert {folder: place.files(folder) for folder in before} == before


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\udcff"])
def test_class_folders_that_no_terminal_could_show(fresh, capsys, name):
    from crackcam.data.splits import plan_splits

    Path("data/train/Positive").rename(f"data/train/{name}")
    with pytest.raises(UserError, match="is not a class name: names are printable: rename its folder"):
        plan_splits(Path("data"), 0.15, 0)
