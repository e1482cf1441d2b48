"""Reshape transforms, and finding and replacing layers."""

import math

import pytest
import torch
from package_results import given_values, package_values
from torch import nn

from pytorch_grad_cam.utils import find_layers
from pytorch_grad_cam.utils.reshape_transforms import (
    fasterrcnn_reshape_transform,
    swinT_reshape_transform,
    vit_reshape_transform,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given():
    return given_values()


@pytest.fixture(scope="module")
def theirs():
    return package_values()


def test_reshape_transforms_equal_the_packages(given, theirs):
    tokens = given["tokens"]
    assert torch.equal(fasterrcnn_reshape_transform(given["pyramid"]), theirs["pyramid"])
    assert torch.equal(swinT_reshape_transform(tokens[:, 1:50]), theirs["swin"])
    assert torch.equal(vit_reshape_transform(tokens), theirs["vit"])
    assert torch.equal(vit_reshape_transform(tokens, height=7, width=28), theirs["vit 7 x 28"])


def test_feature_pyramids_without_a_pool_level(given):
    """RetinaNet's levels have other names; the size is that of the coarsest."""
    levels = dict(zip(["p6", "0", "1"], reversed(given["pyramid"].values()), strict=True))
    found = fasterrcnn_reshape_transform(levels)
    assert torch.equal(
        found, fasterrcnn_reshape_transform(given["pyramid"]).reshape(1, 3, 3, 4, 3).flip(1).flatten(1, 2)
    )


@pytest.mark.parametrize(
    ("before", "grid", "how"),
    [
        (1, (24, 24), {}),  # ViT at 384
        (0, (16, 16), {}),  # no class token
        (2, (14, 14), {}),  # DeiT, distilled
        (5, (16, 16), {}),  # DINOv2 with registers
        (1, (9, 16), {"height": 9, "width": 16}),
        (1, (18, 32), {"height": 9, "width": 16}),  # the same aspect ratio
    ],
)
def test_vit_grids_are_found_from_the_number_of_tokens(before, grid, how):
    cells = torch.arange(math.prod(grid)).reshape(1, -1, 1)
    tokens = torch.cat([-torch.ones(1, before, 1, dtype=torch.int64), cells], dim=1)
    assert torch.equal(vit_reshape_transform(tokens, **how), cells.reshape(1, 1, *grid))


@pytest.mark.parametrize("count", [14 * 20 + 1, 9, 8])
def test_ambiguous_vit_grids_are_errors(count):
    """281: no square; 9: 3 x 3, or 2 x 2 after five prefix tokens; 8: neither."""
    with pytest.raises(ValueError, match=rf"{count} tokens .* pass height and width.* \+ 1 == {count} .*height=14"):
        vit_reshape_transform(torch.zeros(1, count, 4))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        vit_reshape_transform(torch.zeros(2, 3))


def test_swin_layers_of_any_version():
    tokens = torch.randn(2, 144, 3)
    found = swinT_reshape_transform(tokens)  # 12 x 12, a Swin at 384
    assert torch.equal(found[:, :, 2, 5], tokens[:, 2 * 12 + 5])
    assert torch.equal(swinT_reshape_transform(tokens.reshape(2, 8, 18, 3))[:, :, 2, 5], tokens[:, 2 * 18 + 5])
    with pytest.raises(ValueError, match="144 tokens"):
        swinT_reshape_transform(tokens, height=7, width=8)


class Alike(nn.ReLU):
    """Equal to all its instances, as data classes without fields are."""

    def __eq__(self, other):
        return isinstance(other, Alike)

    __hash__ = nn.Module.__hash__


def test_layers_are_compared_by_identity():
    first, second, new = Alike(), Alike(), nn.Identity()
    model = nn.Sequential(nn.Sequential(first), second, nn.Module())
    model[2].register_module("absent", None)
    assert find_layers.replace_layer_recursive(model, second, new)
    assert model[0][0] is first
    assert model[1] is new
    assert not find_layers.replace_layer_recursive(model, second, new)


def test_layers_are_replaced_by_type():
    class Late(nn.ReLU):
        pass

    shared, new = nn.ReLU(), nn.Sequential(nn.ReLU())  # the new layer contains the old type
    model = nn.Sequential(shared, nn.Sequential(Late(), nn.Conv2d(1, 1, 1)), shared)
    find_layers.replace_all_layer_type_recursive(model, nn.ReLU, new)
    assert [model[0], model[1][0], model[2]] == [new] * 3
    assert type(new[0]) is nn.ReLU
    assert type(model[1][1]) is nn.Conv2d


def test_layers_are_found_once_and_in_order():
    class Late(nn.ReLU):
        pass

    shared, late = nn.ReLU(), Late()
    inner = nn.Sequential(nn.Conv2d(1, 1, 1), late)
    model = nn.Sequential(shared, inner, shared)
    assert find_layers.find_layer_types_recursive(model, [nn.ReLU, nn.Conv2d]) == [shared, inner[0]]
    found = find_layers.find_layer_predicate_recursive(model, lambda layer: not isinstance(layer, nn.Conv2d))
    assert found == [shared, inner, late]
