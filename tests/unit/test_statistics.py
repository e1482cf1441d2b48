"""What is known about a data set: counts, sizes, identical images."""

import torch
from PIL import Image

from crackcam.data import statistics
from crackcam.data.pixels import PixelSplit


def test_data_is_summed_up(tmp_path):
    for i, size in enumerate([(40, 30), (40, 30), (20, 10)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b, c = (tmp_path / f"{i}.jpg" for i in range(3))
    turned = tmp_path / "turned.jpg"
    splits = {
        "train": PixelSplit(
            torch.stack([pixels[0], pixels[1], pixels[2], pixels[2]]), torch.tensor([0, 1, 1, 1]), [a, b, c, turned]
        ),
        "test": PixelSplit(torch.stack([pixels[0], pixels[1]]), torch.tensor([0, 0]), [a, a]),
    }
    found = statistics.summarize(splits, ["cat", "dog"])
    assert found["pictures"] == {"train": {"cat": 1, "dog": 3}, "test": {"cat": 2, "dog": 0}}
    assert {*found["sizes"]} == {(40, 30, 4), (20, 10, 1), (30, 40, 1)}
    assert found["other_sizes"] == 0
    assert [(group["files"], group["why"]) for group in found["duplicates"]] == [
        ([str(b), str(a)], "in different classes: one label must be wrong"),
        ([str(a), str(a)], "in different splits: the model is scored on an image that it was trained on"),
        ([str(c), str(turned)], "counted twice"),
    ]
    assert found["duplicated"] == 3
