"""The pages say what the code does."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import inference
import train
import xai
from crackcam.cli.commands import COMMANDS
from crackcam.data.synthetic import write_sample
from crackcam.methods import METHODS, method_class
from pytorch_grad_cam import BaseCAM

SCRIPTS = {"train.py": train, "inference.py": inference, "xai.py": xai}
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("[!.]*/README.md")), *sorted(ROOT.glob("docs/**/*.md"))]
CALL = re.compile(
    r"(?:python |torchrun \S+ )((?:train|inference|xai)\.py[^\n`]*)|crackcam ((?:train|predict|explain)\b[^\n`]*)"
)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def words_of(line):
    """The words of a command, without what follows it in a sentence."""
    return shlex.split(re.split(r"\s{2,}|\s#|[,)]\s|[.:]$|\s*(?:&&|>)", line)[0], comments=True)


def code_of(page):
    """The text in code: fenced blocks, without those of Python, and inline."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [block for language, block in fenced if language != "python"] + inline


def commands():
    texts = [part for page in PAGES for part in code_of(page)] + [module.__doc__ for module in SCRIPTS.values()]
    for text in texts:
        for script, console in CALL.findall(text.replace("\\\n", " ")):
            words = words_of(script or console)
            if not {"...", "--help"} & {*words} and not any("|" in word for word in words[:1]):
                yield words


@pytest.mark.parametrize("words", list({" ".join(words): words for words in commands()}.values()), ids=" ".join)
def test_documented_commands_parse(words):
    name, *flags = words
    parser = SCRIPTS[name].build_parser() if name in SCRIPTS else COMMANDS[name].parser(prog=f"crackcam {name}")
    parser.parse_args(flags)


def test_there_are_commands():
    found = list(commands())
    assert len(found) >= 15
    assert {words[0] for words in found} >= {*SCRIPTS}


# -- tables ------------------------------------------------------------------------------------------------------------


TABLES = runpy.run_path(str(ROOT / "docs/tables.py"))


@pytest.mark.parametrize(("name", "row"), [("methods", "| `hirescam` |"), ("flags", "| `--json` |")])
def test_tables_are_those_of_the_code(name, row):
    """Where they are not: make tables."""
    text = TABLES["PAGES"][name].read_text("utf-8")
    assert text.count(row) == 1
    assert TABLES["filled"](name, text) == text
    assert TABLES["filled"](name, text.replace(row, "| `--xml` |")) == text
    with pytest.raises(ValueError, match="0 places for the table"):
        TABLES["filled"](name, "# A page without marks\n")


def test_every_flag_is_in_the_table():
    text = TABLES["PAGES"]["flags"].read_text("utf-8")
    for module in SCRIPTS.values():
        for action in module.build_parser()._actions:
            assert (
                re.search(rf"^\| (`|<code>){action.option_strings[-1]}\b", text, re.MULTILINE) or action.dest == "help"
            )
    assert "\n| `--data DIR` | " in text
    assert "\n| `--report [FILE]` | " in text
    assert "\n| `--image PATH ...` | " in text


def test_the_methods_say_of_themselves_what_the_table_says():
    for name, method in METHODS.items():
        found = method_class(name)
        assert issubclass(found, BaseCAM) is not method.signed_image
        assert getattr(found, "uses_gradients", True) == method.gradients, name
        assert found.__doc__
        assert "arXiv" in found.__doc__ or "20" in found.__doc__ or "no paper" in found.__doc__, name


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_the_readme_shows_small_images():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.read_text("utf-8"))
    assert len(shown) >= 3
    assert max(path.stat().st_size for path in (ROOT / "docs/images").iterdir()) < 300_000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.fixture
def run_python(tmp_path, monkeypatch):
    """Runs the blocks of a page one after the other, in a folder with generated images; returns what they define."""
    monkeypatch.chdir(tmp_path)
    write_sample(Path("data"), counts={"train": 4, "test": 2})

    def run(page):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        names: dict = {"__name__": "page"}
        exec("\n".join(blocks), names)
        return names

    return run


def test_python_of_the_readme_runs(run_python, capsys):
    names = run_python(README)
    assert names["e"].heatmap.shape == names["wall"].size[::-1]
    assert "(448, 448)" in capsys.readouterr().out
    assert Image.open("wall_heatmap.png").size == (448, 448)


def test_python_of_the_page_of_own_networks_runs(run_python):
    names = run_python(ROOT / "docs/how-to/explain-your-own-network.md")
    assert names["explanation"].heatmap.shape == (240, 320)
    assert names["overlay"].size == (320, 240)
    assert names["heatmaps"].shape == (4, 96, 128)
    assert names["logits"].shape == (4, 5)
    assert names["signed"].min() < 0
    assert len(names["maps"]) == 3
    assert all(heatmap.shape == (4, 96, 128) and heatmap.max() == 1 for heatmap in names["maps"])
    # of the segmentation network
    assert names["evidence"].shape == (4, 96, 128)
    assert names["labels"].shape == (4, 96, 128)
    for each, heatmap in zip(names["classes"], names["evidence"], strict=True):
        assert 0 <= each < 21
        assert 0 <= heatmap.min() <= heatmap.max() <= 1
    assert names["evidence"].max() == 1


def test_python_of_the_page_that_compares_heatmaps_runs(run_python, capsys):
    names = run_python(ROOT / "docs/how-to/compare-heatmaps-in-python.md")
    first, second = names["first"], names["second"]
    assert (first.method, second.method) == ("evidence", "layercam")
    ranks = [np.argsort(np.argsort(each.resized((64, 64)).ravel())) for each in (first, second)]
    assert names["rank_correlation"](first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.02)
    assert names["rank_correlation"](first, first) == 1
    assert -1 <= names["between"] < 1
    assert names["difference"].shape == (320, 448)
    assert Image.open("methods.png").size == Image.open("networks.png").size == (1200, 340)
    assert capsys.readouterr().out.count("rank correlation") == 2


def test_the_page_of_differences_names_every_method_that_differs():
    text = (ROOT / "docs/reference/differences.md").read_text("utf-8")
    for name in ("Grad-CAM++", "FullGrad", "Ablation-CAM", "Eigen-CAM", "Finer-CAM", "FEM", "RandomCAM"):
        assert name in text


# -- tests that pages name ---------------------------------------------------------------------------------------------


def functions_in(path):
    return re.findall(r"^ *def (\w+)", path.read_text("utf-8"), re.MULTILINE)


KNOWN_TESTS = {name for path in ROOT.glob("tests/*/test_*.py") for name in functions_in(path)}
NAMED_TESTS = [*ROOT.glob("docs/reference/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("page", NAMED_TESTS, ids=name_of)
def test_tests_that_a_page_names_exist(page):
    for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8")):
        assert name in KNOWN_TESTS
    for path in re.findall(r"(?:tests|benchmarks|examples)/[\w./-]+\.\w+", page.read_text("utf-8")):
        assert (ROOT / path).exists()


def test_commands_of_the_page_of_reliability_select_tests():
    """``... -k word`` continues with the files of the row above."""
    files = []
    rows = re.findall(
        r"`((?:\.\.\.|(?:python -m )?pytest)[^`]*)`", (ROOT / "docs/reference/reliability.md").read_text()
    )
    assert len(rows) >= 30
    for row in rows:
        words = shlex.split(row)
        files = [ROOT / word for word in words if word.endswith(".py")] or files
        if "-k" not in words:
            continue
        names = [f"{path.name}::{name}" for path in files for name in functions_in(path) if name.startswith("test_")]
        for part in words[words.index("-k") + 1].split(" or "):
            assert any(part in name for name in names), f"{row}: {part}"


# -- the site ----------------------------------------------------------------------------------------------------------


@pytest.mark.torture
def test_the_site_builds(tmp_path):
    """make docs: strict, so no broken link, no missing anchor, no page outside the navigation."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    for name in ("docs", "mkdocs.yml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ("crackcam", "pytorch_grad_cam"):  # which mkdocstrings reads
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "LayerCAM" in (tmp_path / "site/reference/engine/index.html").read_text("utf-8")


def test_the_cats_and_dogs_tutorial_shows_one_image_throughout():
    """Commands of one class folder name the same images: split, number and seed."""
    texts = code_of(ROOT / "docs/tutorials/cats-and-dogs.md")
    calls = [words_of(script) for text in texts for script, _ in CALL.findall(text)]
    chosen = []
    for name, *flags in calls:
        if "--type" in flags:
            parsed = vars(COMMANDS["predict" if name == "inference.py" else "explain"].parser().parse_args(flags))
            chosen.append(tuple(str(parsed[key]) for key in ("data", "type", "split", "num", "seed")))
    assert len(chosen) >= 3
    assert set(chosen) == {("cats_dogs", "dogs", "val", "1", "7")}
