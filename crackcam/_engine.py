"""What crackcam runs with: which Python, and which ``pytorch_grad_cam``; grad-cam has the same import name.

Pythons that are too old read this module, ``crackcam/__init__.py`` and the scripts, and have to understand them.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

NAME = "pytorch_grad_cam"
REMEDY = "pip uninstall grad-cam, then pip install --force-reinstall --no-deps crackcam"


def check_python() -> None:
    """Raises ImportError where Python is too old to read the other modules."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a clone is not installed by pip, which would refuse it
        found = ".".join(map(str, sys.version_info[:3]))
        raise ImportError(
            f"Requires Python 3.11+, this is {found} ({sys.executable}): run make demo PYTHON=python3.11, "
            "then . .venv/bin/activate"
        )


def check() -> None:
    """Raises ImportError where Python finds another ``pytorch_grad_cam``, or where two packages share its folder."""
    from importlib.metadata import PackageNotFoundError, distribution  # which old Pythons do not have

    home = Path(__file__).parents[1]
    spec = find_spec(NAME)
    if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(home / NAME):
        found = "none" if spec is None else spec.origin
        raise ImportError(
            f"crackcam needs its own {NAME}, in {home}, but Python finds {found}: run it in that folder, or {REMEDY}"
        )
    try:
        theirs = Path(str(distribution("grad-cam").locate_file(NAME)))
    except PackageNotFoundError:
        return
    if theirs.resolve() == (home / NAME).resolve():
        raise ImportError(f"the packages crackcam and grad-cam both install {NAME}, and only one can: {REMEDY}")
