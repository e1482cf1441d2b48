"""The public names of crackcam: lazy, documented, with examples that run."""

import doctest
import inspect
import logging
from importlib import import_module

import pytest
from conftest import ROOT, run_code
from processes import run_python

import crackcam

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("examined_once")]

IMPORT = """
import sys
import crackcam
crackcam.UserError, crackcam.TrainConfig, crackcam.ExplainConfig, dir(crackcam), crackcam.__version__
heavy = {"torch", "torchvision", "numpy", "matplotlib", "cv2", "PIL", "pytorch_grad_cam"} & set(sys.modules)
assert not heavy, heavy
"""
PREDICT = """
import sys
heavy = {"scipy", "sklearn", "skimage", "timm", "jinja2"}
for name in [name for name in sys.modules if name.split(".")[0] in heavy]:
    del sys.modules[name]
import crackcam.cli.predict
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_what_is_slow_to_import_is_imported_where_it_is_used():
    done = run_python(PREDICT, path=[ROOT])
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_torch_and_no_numpy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_code(IMPORT)


def test_public_names_are_listed_and_found():
    assert set(crackcam.__all__) == {*crackcam._HOMES, "UserError"}
    assert set(crackcam.__all__) <= set(dir(crackcam))
    for name in crackcam.__all__:
        assert getattr(crackcam, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'crackcam' has no attribute 'magic'"):
        crackcam.magic  # noqa: B018


@pytest.mark.parametrize("name", crackcam.__all__)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("crackcam"), "level", logging.ERROR)
    value = getattr(crackcam, name)
    assert "\n    Examples:\n" in value.__doc__, "no Examples block"
    found = doctest.DocTestFinder(recurse=False).find(value, name, import_module(value.__module__))
    (test,) = [test for test in found if test.name == name]
    assert test.examples
    report = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", [name for name in crackcam.__all__ if name[0].isupper()])
def test_methods_of_public_classes_are_documented(name):
    cls = getattr(crackcam, name)
    own = {key: value for key, value in vars(cls).items() if not key.startswith("_")}
    bare = [
        key
        for key, value in own.items()
        if (inspect.isroutine(value) or isinstance(value, property | classmethod))
        and not inspect.getdoc(getattr(cls, key))
    ]
    assert bare == []
