"""Families of classifiers: the target layer that is found responds where the image changes, or the family is refused.

The criterion, in benchmarks/families.py, does not use the code that finds the layer: corners of images are changed.
"""

import re
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from crackcam.models.target_layers import Grid, TargetLayer, find_target_layers

sys.path.insert(0, str(ROOT / "benchmarks"))

import families

pytestmark = pytest.mark.slow

ROWS = {
    family: (member, verdict, detail)
    for family, member, verdict, detail in re.findall(
        r"^\| (\S+) \| `?([^|`]*)`? \| ([^|]+) \| (.*) \|$", families.PAGE.read_text("utf-8"), re.MULTILINE
    )
}
QUICK = [
    "torchvision/resnet",  # (N, C, H, W)
    "timm/deit",  # class token
    "timm/levit",
    "timm/mobilevit",  # (N, C, H, W) with unfolded patches between
]
SLOW = [  # 6 to 30 seconds each
    "timm/mlp_mixer",
    "timm/pvt_v2",
    "torchvision/swin_transformer",  # (N, H, W, C)
    "timm/convnext",
    "timm/efficientformer",  # grids, then tokens
    "timm/gcvit",  # windows; attention matrices
    "timm/hiera",  # tokens in unrolled order before the last stage
    "timm/vision_transformer_relpos",  # tables of position biases
    "timm/xcit",  # attention between channels
]


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.torture) for name in SLOW)])
def test_a_dozen_families_are_those_of_the_page(family, monkeypatch):
    """Where they are not: python benchmarks/families.py, see there."""
    monkeypatch.setattr(families, "IMAGES", 1)
    member, verdict, detail = ROWS[family]
    row = families.verdict(family, member, families.enliven(families.build(member)), families.image_size(member))
    assert (row.verdict, row.detail) == (verdict, detail)
    assert verdict == "found"


@pytest.mark.parametrize(
    "member",
    [
        pytest.param("timm/vit_relpos_small_patch16_224", marks=pytest.mark.torture),
        pytest.param("timm/hiera_tiny_224", marks=pytest.mark.torture),
        pytest.param("timm/gcvit_xxtiny", marks=pytest.mark.torture),
    ],
)
def test_stages_are_grids_too(member, monkeypatch):
    """Of these, unrolled tokens, dropout of attention and tables of position biases were taken for stages."""
    monkeypatch.setattr(families, "IMAGES", 1)
    model = families.enliven(families.build(member))
    for layer in find_target_layers(model, 224, stages=True):
        assert families.moved_most(model, layer, 224) == families.CORNERS, layer.name


def test_the_page_has_every_family_and_none_is_wrong():
    assert {family for family in ROWS if family != "family"} == set(families.families())
    verdicts = [verdict for _, verdict, _ in ROWS.values()]
    assert set(verdicts) - {"result"} <= {"found", "refused", "not built"}


@pytest.mark.torture
@pytest.mark.parametrize("family", families.families())
def test_every_family(family):
    row = families.examine(family, families.families()[family])
    assert row.verdict in ("found", "refused", "not built"), row


class Mirrored(nn.Module):
    """A network whose layer ``last`` mirrors the grid, and whose head looks at another one."""

    def __init__(self, mirrored, used):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.used = nn.Conv2d(3, 4, 8, 8), nn.Identity(), used
        if mirrored:
            self.last.register_forward_hook(lambda module, inputs, output: output.flip(3))

    def forward(self, x):
        grid = self.conv(x)
        last = self.last(grid)
        return (last if self.used else grid).mean((2, 3))


@pytest.mark.parametrize(
    ("mirrored", "used", "right", "depends"),
    [(False, True, True, True), (True, True, False, True), (False, False, True, False)],
)
def test_the_criterion_of_the_sweep(mirrored, used, right, depends):
    model = Mirrored(mirrored, used).eval()
    layer = TargetLayer("last", model.last, Grid(4, 8, 8))
    assert (families.moved_most(model, layer, 64) == families.CORNERS) is right
    assert families.matters(model, layer, 64) is depends
