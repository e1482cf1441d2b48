"""The documents say what the code does."""

import re
import runpy
import shlex

import pytest
from conftest import ROOT

import inference
import train
import xai
from crackcam.methods import METHODS, markdown_table
from pytorch_grad_cam import BaseCAM

SCRIPTS = {"train.py": train, "inference.py": inference, "xai.py": xai}
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("docs/*.md"))]


def commands():
    texts = [page.read_text() for page in PAGES] + [module.__doc__ for module in SCRIPTS.values()]
    for text in texts:
        for line in re.findall(r"python (\S+\.py[^\n`]*)", text):
            words = shlex.split(re.split(r"\s{2,}|\s#|[,)]\s|[.:]$", line)[0], comments=True)
            if words[0] in SCRIPTS and not {"...", "--help"} & {*words}:
                yield words


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_documented_commands_parse(words):
    SCRIPTS[words[0]].build_parser().parse_args(words[1:])


def test_there_are_commands():
    assert len(list(commands())) >= 15


def test_the_tables_of_the_readme_are_those_of_the_code():
    """Mended by make tables."""
    filled = runpy.run_path(str(ROOT / "docs/tables.py"))["filled"]
    text = (ROOT / "README.md").read_text("utf-8")
    assert markdown_table() in text
    assert filled(text) == text
    assert filled(text.replace("| `--json` |", "| `--xml` |")) == text
    for flag in ("--data DIR", "--resume", "--all", "--save-maps DIR"):
        assert f"\n| `{flag}` | " in text


def test_the_readme_shows_small_pictures():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert len(shown) >= 5
    assert all((ROOT / picture).stat().st_size < 300_000 for picture in shown)


def test_the_methods_say_of_themselves_what_the_table_says():
    from crackcam.methods import method_class

    for name, method in METHODS.items():
        found = method_class(name)
        assert issubclass(found, BaseCAM) is not method.signed_image
        assert getattr(found, "uses_gradients", True) == method.gradients, name
        assert found.__doc__
        assert "arXiv" in found.__doc__ or "20" in found.__doc__ or "no paper" in found.__doc__, name


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_documents_of_the_engine_name_every_departure():
    text = (ROOT / "docs/differences.md").read_text()
    for name in ("Grad-CAM++", "FullGrad", "Ablation-CAM", "Eigen-CAM"):
        assert name in text
    for test in re.findall(r"`(test_\w+)`", text):
        sources = "".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py"))
        assert f"def {test}(" in sources, test


def test_the_examples_of_the_api_run():
    """In one go, as a reader would who types them one after the other."""
    text = (ROOT / "docs/api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["heat"].shape == (4, 96, 128)
    assert names["logits"].shape == (4, 5)
    assert names["signed"].min() < 0
    assert len(names["maps"]) == 3
    assert all(heat.shape == (4, 96, 128) and heat.max() == 1 for heat in names["maps"])
