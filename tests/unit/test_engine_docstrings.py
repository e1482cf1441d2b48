"""The examples in the engine's docstrings run, and all public names have one."""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module

import pytest
import torch
from networks import METHODS

import pytorch_grad_cam

MODULES = [
    "pytorch_grad_cam",
    *(info.name for info in pkgutil.walk_packages(pytorch_grad_cam.__path__, "pytorch_grad_cam.")),
]
API_MODULES = (  # grad-cam documents their functions, too
    "feature_factorization.deep_feature_factorization",
    "metrics.arcc",
    "metrics.cam_mult_image",
    "sobel_cam",
    "utils.find_layers",
    "utils.image",
    "utils.model_targets",
    "utils.reshape_transforms",
    "utils.svd_on_activations",
)


def defined_in(module):
    """Public classes and functions that a module defines itself."""
    for name, value in vars(module).items():
        if (inspect.isclass(value) or inspect.isroutine(value)) and not name.startswith("_"):
            value = inspect.unwrap(value)
            if getattr(value, "__module__", None) == module.__name__:
                yield name, value


def public_objects():
    """The package's names, the metrics' classes, and everything in the modules of grad-cam's documented functions."""
    yield from ((name, getattr(pytorch_grad_cam, name)) for name in pytorch_grad_cam.__all__)
    for module in MODULES:
        documented = module.removeprefix("pytorch_grad_cam.").startswith(API_MODULES)
        for name, value in defined_in(import_module(module)):
            if documented or (".metrics." in module and inspect.isclass(value)):
                yield name, value


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    failed, _ = doctest.testmod(import_module(name), optionflags=doctest.FAIL_FAST)
    assert failed == 0


def test_public_names_have_an_example():
    names = dict(public_objects())
    assert len(names) > 60
    assert [name for name, value in names.items() if "Examples:\n" not in value.__doc__] == []


def test_examples_are_found():
    """The finder of doctest sees what the tests above rely on."""
    module = import_module("pytorch_grad_cam.grad_cam")
    found = {test.name: len(test.examples) for test in doctest.DocTestFinder().find(module)}
    assert found["pytorch_grad_cam.grad_cam.GradCAM"] == 9


@pytest.mark.parametrize("name", METHODS)
def test_methods_cite_their_paper(name):
    """With its arXiv number where there is one, else with conference or journal and year."""
    doc = inspect.getdoc(getattr(pytorch_grad_cam, name))
    assert re.search(
        r"arXiv:\d{4}\.\d{4,5}|(WACV|IPTA|AAAI|Processing) 20\d\d|doi:|There is no paper|there is no paper", doc
    )
