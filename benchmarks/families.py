"""Which layer is found in each family of classifiers, and does it respond where the image changes?

    python benchmarks/families.py --rows families.jsonl              every family, a minute or more for ten; resumes
    python benchmarks/families.py --rows families.jsonl --page       docs/reference/families.md from these rows

A family is a module of torchvision or timm; its smallest classifier stands for it, with random weights. Whether the
layer is right is decided without the code that finds it: one corner of the image is changed after another, and that
quarter of the grid has to change most; and the logits have to depend on the grid.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from crackcam.errors import UserError
from crackcam.models.registry import EXTRA_ARGUMENTS
from crackcam.models.target_layers import TargetLayer, find_target_layers

PAGE = ROOT / "docs" / "reference" / "families.md"
LARGEST = 100e6  # parameters
IMAGES = 3  # that corners are changed of
CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # row and column


@dataclass(frozen=True)
class Row:
    """One family.

    Attributes:
        family: library and module.
        member: architecture, as ``--arch`` takes it.
        verdict: found, refused, wrong or not built.
        detail: the layer and its grid; or the reason.
    """

    family: str
    member: str
    verdict: str
    detail: str


# -- members ---------------------------------------------------------------------------------------------------------


def families() -> dict[str, list[str]]:
    """Names of classifiers by family, ``torchvision/resnet`` or ``timm/resnet``, as ``--arch`` takes them."""
    found: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(f"torchvision/{module}", []).append(name)
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
        found[f"timm/{module}"] = [f"timm/{name}" for name in names]
    return found


def build(member: str) -> nn.Module:
    """A classifier with random weights, in eval mode."""
    torch.manual_seed(0)
    if member.startswith("timm/"):
        return timm.create_model(member.removeprefix("timm/")).eval()
    return torchvision.models.get_model(member, weights=None, **EXTRA_ARGUMENTS.get(member, {})).eval()


def enliven(model: nn.Module) -> nn.Module:
    """The model with random values in weights that are 0: of heads, say, and of the last norm in each block.

    Deep networks with random weights respond little: biases, beside which rounding would hide it, become 0.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif not parameter.any():
                parameter.normal_(0, 0.02)
    return model


def smallest(members: list[str]) -> tuple[str, int]:
    """The classifier with the fewest parameters, and their number; ("", 0) where none is a classifier."""
    sizes = {}
    for member in members:
        if not member.startswith("timm/"):
            sizes[member] = torchvision.models.get_model_weights(member).DEFAULT.meta["num_params"]
            continue
        with suppress(Exception), torch.device("meta"):  # not every model can be built without memory
            model = build(member)
            if model.num_classes:
                sizes[member] = sum(parameter.numel() for parameter in model.parameters())
    return min(sizes.items(), key=lambda item: item[1], default=("", 0))


def image_size(member: str) -> int:
    """Side of the images that the weights of an architecture expect."""
    if member.startswith("timm/"):
        return timm.get_pretrained_cfg(member.removeprefix("timm/")).input_size[-1]
    return torchvision.models.get_model_weights(member).DEFAULT.transforms().crop_size[0]


# -- the criterion ---------------------------------------------------------------------------------------------------


def moved_most(model: nn.Module, layer: TargetLayer, size: int) -> list[tuple[int, int]]:
    """For a change in each corner, the quarter (row, column) of the grid in which a layer's output changes most.

    Of networks with random weights single positions respond at random: quarters are means, also over IMAGES images. And
    some positions respond more than others wherever the change is: changes are relative to their mean over the corners.
    """
    draw = torch.Generator().manual_seed(5)
    coarse = torch.randn(IMAGES, 3, size // 4, size // 4, generator=draw)
    images = nn.functional.interpolate(coarse, (size, size))
    batch = images.repeat(5, 1, 1, 1, 1)
    width = 3 * size // 8
    for index, (row, column) in enumerate(CORNERS):
        top, left = row * (size - width), column * (size - width)
        batch[1 + index, :, :, top : top + width, left : left + width] *= -1
    outputs: list[torch.Tensor] = []
    run(model, layer, batch.flatten(0, 1), outputs.append)
    grids = layer.reshape(outputs[-1]) if layer.reshape else outputs[-1]
    if len(grids) != 5 * IMAGES:
        return []
    grids = grids.unflatten(0, (5, IMAGES))
    changes = (grids[1:] - grids[0]).abs().mean(dim=(1, 2))  # of each corner, (H, W)
    changes = changes / changes.mean(dim=0).clamp(min=1e-30)
    half = changes.shape[1] // 2
    means = [[float(quarter(change, corner, half).mean()) for corner in CORNERS] for change in changes]
    return [CORNERS[of_one.index(max(of_one))] for of_one in means]


def quarter(grid: torch.Tensor, corner: tuple[int, int], half: int) -> torch.Tensor:
    """A quarter of a grid (H, W); the middle lines of odd sizes lie in none."""
    rows, columns = (slice(-half, None) if last else slice(half) for last in corner)
    return grid[rows, columns]


def matters(model: nn.Module, layer: TargetLayer, size: int) -> bool:
    """Whether the logits change where the positions of a layer's output are those of another image."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(6))

    def exchange(output: torch.Tensor) -> torch.Tensor:
        if output.ndim == 4:
            return output.flip(0)
        places = layer.grid.height * layer.grid.width
        return torch.cat([output[:, :-places], output[:, -places:].flip(0)], dim=1)

    expected = run(model, layer, images, lambda output: None)
    return not torch.allclose(run(model, layer, images, exchange), expected, atol=0, rtol=1e-6)


def run(model: nn.Module, layer: TargetLayer, images: torch.Tensor, watch: Callable[[torch.Tensor], object]) -> Any:
    """The logits; what ``watch`` returns takes the place of the layer's output."""
    handle = layer.module.register_forward_hook(lambda module, inputs, output: watch(output))
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


# -- rows ------------------------------------------------------------------------------------------------------------


def examine(family: str, members: list[str]) -> Row:
    """The row of a family."""
    member, parameters = smallest(members)
    if not member:
        return Row(family, "", "not built", "no classifier that can be built without its weights")
    if parameters > LARGEST:
        return Row(family, member, "not built", f"{parameters / 1e6:.0f} million parameters")
    try:
        model = enliven(build(member))
    except Exception as error:
        return Row(family, member, "not built", f"{type(error).__name__}: {error}"[:100])
    return verdict(family, member, model, image_size(member))


def verdict(family: str, member: str, model: nn.Module, size: int) -> Row:
    """The row of a model."""
    try:
        (layer,) = find_target_layers(model, size)
    except UserError as error:
        return Row(family, member, "refused", str(error))
    right = moved_most(model, layer, size) == CORNERS and matters(model, layer, size)
    grid = f"{layer.grid.channels} x {layer.grid.height} x {layer.grid.width}"
    return Row(family, member, "found" if right else "wrong", f"`{layer.name}`, {grid} at {size} px")


def read(path: Path) -> list[Row]:
    """Rows of a file; none where there is no file."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def sweep(path: Path, shard: str) -> Iterator[Row]:
    """Examine the families that a file lacks, and append their rows to it."""
    index, count = map(int, shard.split("/"))
    done = {row.family for row in read(path)}
    for number, (family, members) in enumerate(families().items()):
        if number % count == index - 1 and family not in done:
            row = examine(family, members)
            with path.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            yield row


# -- the page --------------------------------------------------------------------------------------------------------

HEAD = """# Which architectures can be explained?

`python benchmarks/families.py` builds the smallest classifier of each module of torchvision {torchvision} and
timm {timm} with random weights (weights that start as zeros are drawn too,
biases are 0), lets crackcam choose the target layer,
and checks it: one corner of the image is changed after another, and the layer's output has to change most in that
quarter of its grid; and the logits have to depend on it.
[Use ImageNet networks](../how-to/use-imagenet-networks.md) says how to pass another layer.

{summary}

| family | smallest classifier | result | layer and its grid, or the reason |
|---|---|---|---|
"""


def page(rows: list[Row]) -> str:
    """The text of docs/reference/families.md."""
    order = list(families())
    rows = sorted(rows, key=lambda row: order.index(row.family))
    counts = {name: sum(row.verdict == name for row in rows) for name in ("found", "refused", "wrong", "not built")}
    summary = f"{len(rows)} families: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + "."
    head = HEAD.format(torchvision=torchvision.__version__.split("+")[0], timm=timm.__version__, summary=summary)
    lines = [
        f"| {row.family} | {f'`{row.member}`' if row.member else ''} | {row.verdict} | {row.detail} |" for row in rows
    ]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines, one for each family")
    parser.add_argument("--shard", default="1/1", help="which families: the first of eight parts is 1/8")
    parser.add_argument("--page", action="store_true", help="write the page from the rows")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.page:
        PAGE.write_text(page(read(asked.rows)), "utf-8")
        return
    for row in sweep(asked.rows, asked.shard):
        print(f"{row.verdict:<10}{row.family:<40}{row.member:<45}{row.detail}", flush=True)


if __name__ == "__main__":
    main()
