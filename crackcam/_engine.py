"""Which ``pytorch_grad_cam`` Python finds: ours, or that of the package grad-cam, which has the same import name."""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

NAME = "pytorch_grad_cam"
REMEDY = "pip uninstall grad-cam, then pip install --force-reinstall --no-deps crackcam"


def check() -> None:
    """Raises ImportError where Python finds another ``pytorch_grad_cam``, or where two packages share its folder."""
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
