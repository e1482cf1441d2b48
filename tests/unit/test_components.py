"""Connected components of a mask that is read chunk by chunk."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from crackcam.evaluation.components import component_mask, find_components


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("density", [0.2, 0.4, 0.55])
def test_chunks_do_not_change_the_components(chunk, density):
    mask = np.random.default_rng(1).random((64, 50)) < density
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    found = find_components(lambda top, bottom: mask[top:bottom], len(mask), chunk)
    assert len(found) == count
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        (own,) = [each for each in found if labels[each.seed] == label]
        assert (own.top, own.left, own.bottom, own.right) == (rows.start, columns.start, rows.stop, columns.stop)
        assert own.seed == tuple(np.argwhere(labels == label)[0])
        inside = component_mask(mask[rows, columns], (own.seed[0] - own.top, own.seed[1] - own.left))
        assert np.array_equal(inside, labels[rows, columns] == label)


def test_a_spiral_is_one():
    mask = np.zeros((101, 101), np.uint8)
    turns = [(50 + r * np.cos(r), 50 + r * np.sin(r)) for r in np.linspace(1, 48, 2000)]
    cv2.polylines(mask, [np.rint(turns).astype(np.int32)], False, 1)
    assert len(find_components(lambda top, bottom: mask[top:bottom] > 0, 101, 4)) == 1


def test_nothing():
    assert find_components(lambda top, bottom: np.zeros((bottom - top, 9), bool), 20, 8) == []
