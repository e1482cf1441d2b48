"""The groups of settings: limits, conflicts, and the flags that are built from them."""

import json
from dataclasses import fields, replace

import pytest

import inference
import train
import xai
from crackcam.cli.commands import COMMANDS
from crackcam.cli.runs import ExplainRun, PredictRun
from crackcam.config import (
    AnalysisConfig,
    ExactRuntimeConfig,
    ExplainConfig,
    ImagesConfig,
    ModelConfig,
    OutputConfig,
    PredictConfig,
    RuntimeConfig,
    SizesConfig,
    TrainConfig,
)
from crackcam.errors import UserError
from crackcam.settings import PATH, PATHS, PATTERN, SWITCH, Settings, flag_of, settings_of

SCRIPTS = {"train": train, "predict": inference, "explain": xai}
GROUPS = {name: list(command.groups.values()) for name, command in COMMANDS.items()}
EVERY_GROUP = list({group: None for groups in GROUPS.values() for group in groups})


def subclasses(cls):
    return {found for sub in cls.__subclasses__() for found in (sub, *subclasses(sub))}


def refusal(settings, **values):
    """The message of the UserError that the values raise."""
    with pytest.raises(UserError) as caught:
        settings(**values)
    return caught.value.with_flags


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_the_settings(name):
    """Of the script and of the console script alike."""
    expected = {flag_of(each.name) for group in GROUPS[name] for each in settings_of(group)}
    for parser in (SCRIPTS[name].build_parser(), COMMANDS[name].parser()):
        flags = [option for action in parser._actions for option in action.option_strings]
        assert set(flags) - {"-h", "--help"} == expected
        assert len(flags) == len(expected) + 2


def test_every_group_belongs_to_a_command():
    ours = {group for group in subclasses(Settings) if group.__module__ == "crackcam.config"}
    assert set(EVERY_GROUP) == ours


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_that_are_not_given_have_the_defaults_of_python(name):
    command = COMMANDS[name]
    made = command.collect(command.parser().parse_args([]))
    assert replace(made, command="") == type(made)()


def test_a_run_has_an_object_for_each_group():
    for name, run in (("predict", PredictRun), ("explain", ExplainRun)):
        assert {each.name for each in fields(run)} == {*COMMANDS[name].groups, "command"}
        for title, group in COMMANDS[name].groups.items():
            assert type(getattr(run(), title)) is group


EVERY_SETTING = [(group, each) for group in EVERY_GROUP for each in settings_of(group)]


@pytest.mark.parametrize(("group", "each"), EVERY_SETTING, ids=lambda value: getattr(value, "name", ""))
def test_every_setting_has_help_and_a_default_that_it_takes_itself(group, each):
    assert each.metadata["help"]
    assert len(each.metadata["help"]) < 600
    if each.default is not None:
        assert each.metadata["kind"].parse(each.default) == each.default
    json.dumps(group().as_dict())


TOGETHER = {"verdicts": {"verdict_images": "photos"}, "verdict_images": {"verdicts": "verdicts.csv"}}


@pytest.mark.parametrize(("group", "each"), EVERY_SETTING, ids=lambda value: getattr(value, "name", ""))
def test_odd_values_are_refused_or_taken_as_they_are(group, each):
    for value in (object(), " ", -1, float("nan"), [], ["", 7], {}):
        if value == " " and each.metadata["kind"] in (PATH, PATHS, PATTERN) and each.name != "output":
            others = TOGETHER.get(each.name, {}) if group is TrainConfig else {}
            found = getattr(group(**{each.name: value}, **others), each.name)
            assert str(found[0] if isinstance(found, tuple) else found) == value
        else:
            assert refusal(group, **{each.name: value}).startswith(flag_of(each.name))


# -- limits ----------------------------------------------------------------------------------------------------------

LIMITS = [
    (RuntimeConfig, "batch_size", (1, 10**9), (0, 10**9 + 1), "a whole number above 0"),
    (PredictConfig, "top_k", (1, 10**9), (0, 10**9 + 1), "a whole number above 0"),
    (PredictConfig, "score_threshold", (0, 1), (-0.1, 1.1), "a number from 0 to 1"),
    (ImagesConfig, "num", (1, 10**9), (0, 10**9 + 1), "a whole number above 0"),
    (ImagesConfig, "seed", (0, 2**32 - 1), (-1, 2**32), "a whole number from 0 to 4,294,967,295"),
    (ExplainConfig, "threshold", (0, 1e12), (-1e-9, 1e13), "a number from 0 up"),
    (ExplainConfig, "scales", (0.25, 8), (0.2, 8.1), "own, or a number from 0.25 to 8"),
    (SizesConfig, "mm_per_pixel", (1e-4, 1000), (0, -0.2, 1001), "a number of millimetres from 0.0001 to 1000"),
    (SizesConfig, "distance", (0.001, 10_000), (0, -3, 10_001), "a number of metres from 0.001 to 10000"),
    (SizesConfig, "sensor_width", (0.1, 1000), (0, -13.2, 1001), "a number of millimetres from 0.1 to 1000"),
    (TrainConfig, "val_fraction", (0.01, 0.9), (0.009, 0.91), "a fraction from 0.01 to 0.9"),
    (TrainConfig, "image_size", (8, 2048), (7, 2049), "a whole number from 8 to 2048"),
    (TrainConfig, "epochs", (0, 100_000), (-1, 100_001), "a whole number from 0 to 100,000"),
    (TrainConfig, "patience", (0, 100_000), (-1, 100_001), "a whole number from 0 to 100,000"),
    (TrainConfig, "lr", (1e-12, 1e12), (0, 1e13), "a number above 0"),
    (TrainConfig, "mix_sample", (0, 1), (-0.1, 1.1), "a number from 0 to 1"),
    (TrainConfig, "mask_weight", (0, 1e6), (-0.1, 1e7), "a number from 0 up"),
    (TrainConfig, "seed", (0, 2**32 - 1), (-1, 2**32), "a whole number from 0 to 4,294,967,295"),
    (TrainConfig, "workers", (0, 256), (-1, 257), "a whole number from 0 to 256"),
]


COMPANIONS = {"distance": {"sensor_width": 13.2}, "sensor_width": {"distance": 5}}  # one is nothing without the other


def script_of(group):
    name = next(name for name, groups in GROUPS.items() if group in groups)
    return COMMANDS[name].main(prog=f"{name}.py")


@pytest.mark.parametrize(("group", "name", "taken", "refused", "words"), LIMITS)
def test_limits_from_python_and_from_the_script(group, name, taken, refused, words, capsys):
    for value in taken:
        found = getattr(group(**{name: value, **COMPANIONS.get(name, {})}), name)
        assert found == ((value,) if name == "scales" else value)
    for value in refused:
        assert refusal(group, **{name: value}) == f"{flag_of(name)}: {value!r} is not {words}"
        assert script_of(group)([f"{flag_of(name)}={value}"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: argument {flag_of(name)}: '{value}' is not {words} (see python ")
        assert err.count("\n") == 1


def test_every_number_has_a_limit_that_is_tested():
    tested = {name for _, name, *_ in LIMITS}
    for _, each in EVERY_SETTING:
        try:
            each.metadata["kind"].parse("1")
            number = not isinstance(each.metadata["kind"].parse("1"), str | tuple) and each.type != "Path | None"
        except ValueError:
            continue
        assert not number or each.name in tested or each.type in ("Path", "bool"), each.name


CHOICES = [(group, each) for group, each in EVERY_SETTING if each.metadata["kind"].choices]


@pytest.mark.parametrize(("group", "each"), CHOICES, ids=lambda value: getattr(value, "name", ""))
def test_choices_from_python_and_from_the_script(group, each, capsys):
    choices = each.metadata["kind"].choices
    for value in choices:
        assert getattr(group(**{each.name: value}), each.name) == value
    known = ", ".join(map(str, choices))
    assert refusal(group, **{each.name: "7"}) == f"{flag_of(each.name)}: '7' is not one of {known}"
    assert script_of(group)([flag_of(each.name), "7"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: argument {flag_of(each.name)}: invalid choice: ")
    assert all(str(value) in err for value in choices)


# -- conflicts -------------------------------------------------------------------------------------------------------

GROUP_CONFLICTS = [
    (ImagesConfig, {"image": ["a.jpg"], "type": "Positive"}, "--image names images itself: leave --type and --split out"),
    (ImagesConfig, {"image": ["a.jpg"], "split": "val"}, "--image names images itself: leave --type and --split out"),
    (OutputConfig, {"output": "a.jpg"}, "--output a.jpg must end in .png"),
    (OutputConfig, {"output": "a.csv"}, "--output a.csv must end in .png"),
    (OutputConfig, {"output": "a.png", "all": True}, "--output a.png must end in .csv or .jsonl"),
    (OutputConfig, {"report": "a.htm"}, "--report: 'a.htm' must end in .html"),
    (TrainConfig, {"output": "model.pth"}, "--output model.pth must end in .safetensors"),
]  # fmt: skip

ANATOMY = (
    "--anatomy shows the steps of Grad-CAM: leave "
    "--method, --masks, --metrics, --scales, --fuse, --report and --style mask out"
)
REFINED = "--anatomy and --verify are about heatmaps as the method makes them: leave --refine out"
VERIFIED = "--verify compares plain heatmaps: leave --aug-smooth, --eigen-smooth, --scales, --fuse out"
CUT = "--threshold is for the heatmaps of one --method, with --style mask or --masks"
STREAMED = "--all draws image after image, by one --method: leave --masks, --metrics, --verify and --anatomy out"
RUN_CONFLICTS = [
    *((["--anatomy", *flags], ANATOMY) for flags in (
        ["--method", "layercam"], ["--method", "gradcam,layercam"], ["--masks", "m"], ["--metrics"], ["--scales", "2"],
        ["--fuse", "mean"], ["--report"], ["--style", "mask"],
    )),
    *(([flag, "--refine", "lines"], REFINED) for flag in ("--anatomy", "--verify")),
    *((["--verify", *flags], VERIFIED) for flags in (["--aug-smooth"], ["--eigen-smooth"], ["--scales", "1,2"], ["--fuse", "mean"])),
    *((["--threshold", "0.1", *flags], CUT) for flags in ([], ["--style", "mask", "--method", "gradcam,cam"], ["--style", "edges"])),
    *((["--all", *flags], STREAMED) for flags in (["--masks", "m"], ["--metrics"], ["--verify"], ["--anatomy"], ["--method", "all"])),
    (["--all", "--report"], "--report with --all is about regions: add --style mask, or leave --report out"),
    (["--style", "mask", "--title", "Wall"], "--title is for the findings of --all --style mask"),
    (["--all", "--verdicts", "a.csv"], "--verdicts is for the findings of --all --style mask"),
]  # fmt: skip
RUN_FITS = [
    ["--anatomy"], ["--anatomy", "--method", "gradcam", "--stride", "8"], ["--verify", "--stride", "8"],
    ["--threshold", "0.1", "--style", "mask"], ["--threshold", "0.1", "--masks", "m"], ["--all", "--refine", "lines"],
    ["--all", "--style", "mask", "--threshold", "0.1", "--resume", "--output", "a.jsonl"],
]  # fmt: skip


@pytest.mark.parametrize(("group", "values", "message"), GROUP_CONFLICTS)
def test_conflicts_within_a_group(group, values, message, capsys):
    assert refusal(group, **values) == message
    flags = []
    for name, value in values.items():
        flags += [flag_of(name), *([] if value is True else value if isinstance(value, list) else [value])]
    assert script_of(group)(flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message.removeprefix("--report: ") in err


@pytest.mark.parametrize(("flags", "message"), RUN_CONFLICTS, ids=lambda value: " ".join(value)[:50])
def test_conflicts_of_explaining(flags, message, capsys):
    """The same settings from Python, by the groups that they belong to."""
    assert xai.main(flags) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    with pytest.raises(UserError) as caught:
        explain_run(flags)
    assert caught.value.with_flags == message


@pytest.mark.parametrize("flags", RUN_FITS, ids=" ".join)
def test_what_does_not_conflict(flags):
    assert isinstance(explain_run(flags), ExplainRun)


def explain_run(flags):
    """An ExplainRun of the settings that the flags stand for; the last of several words is a flag's value."""
    given = {}
    for flag in flags:
        if flag.startswith("--"):
            name = flag.removeprefix("--").replace("-", "_")
            given[name] = True
        else:
            given[name] = flag
    parts = {}
    for title, group in COMMANDS["explain"].groups.items():
        known = {each.name: each for each in settings_of(group)}
        own = {name: given.pop(name) for name in list(given) if name in known}
        for name, value in own.items():
            if value is True and known[name].metadata["kind"] is not SWITCH:
                own[name] = known[name].metadata["implied"]
        parts[title] = group(**own)
    assert not given
    return ExplainRun(**parts)


# -- what the settings mean ------------------------------------------------------------------------------------------


def test_heatmaps_are_exact_by_default():
    assert RuntimeConfig().precision == "auto"
    assert ExactRuntimeConfig().precision == ExplainRun().runtime.precision == "fp32"


def test_what_affects_a_result():
    """What --resume of a training run compares."""
    found = TrainConfig().as_dict(affecting_result=True)
    assert set(TrainConfig().as_dict()) - set(found) == {
        "device", "offline", "data", "sample", "export", "resume", "workers", "output", "report", "json",
        "verdicts", "verdict_images",  # their content is compared
    }  # fmt: skip


def test_downloads(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert RuntimeConfig().may_download
    assert not RuntimeConfig(offline=True).may_download
    for value, allowed in (("1", False), ("true", False), ("0", True), ("", True)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert RuntimeConfig().may_download is allowed


@pytest.mark.parametrize(
    ("settings", "calibrated"),
    [
        ({}, True), ({"scales": "1,2"}, True), ({"refine": "lines"}, True), ({"threshold": 1}, True), ({"layer": "a"}, False),
        ({"stride": 8}, False), ({"fuse": "mean"}, False), ({"aug_smooth": True}, False), ({"eigen_smooth": True}, False),
    ],
)  # fmt: skip
def test_unit_of_calibrated_thresholds(settings, calibrated):
    assert ExplainConfig(**settings).as_calibrated is calibrated


def test_methods():
    assert ExplainConfig().method == ("best",)
    assert ExplainConfig(method=["gradcam", "layercam", "gradcam"]).method == ("gradcam", "layercam")
    assert ExplainConfig(method="all").several
    assert not ExplainConfig(method="gradcam").several
    for value, subject in (
        ("magic", "is not a method"),
        ("gradcam,best", "contains 'best', which is not a method"),
        ("gradcam,all", "contains 'all', which is not a method"),
        ([], "contains '', which is not a method"),
    ):
        message = refusal(ExplainConfig, method=value)
        assert f"{subject}; available: best, all, gradcam, scorecam, " in message
    assert refusal(ExplainConfig, method="gradcamm").endswith("(did you mean gradcam?)")


def test_values_in_python_are_those_of_the_flags():
    made = ModelConfig(weights="a.pth", arch="resnet18", classes="a,b")
    args = COMMANDS["predict"].parser().parse_args(["--weights", "a.pth", "--arch", "resnet18", "--classes", "a,b"])
    assert COMMANDS["predict"].collect(args).model == made
    assert AnalysisConfig(masks="m").given("masks", "metrics") == ["--masks"]
