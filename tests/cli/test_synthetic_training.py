"""train.py with synthetic images: --mix-sample and --mask-weight."""

import torch
from conftest import TINY_TRAINING

import train
from crackcam.models.checkpoint import load

QUICK = [*TINY_TRAINING, "--arch", "timm/test_resnet", "--head", "multiscale"]


def test_masks_are_learned_from(fresh, without_figures, capsys):
    """Three runs: by default, from labels alone, without synthetic images. Their weights differ, and messages say so."""
    learned = []
    for flags in ([], ["--mask-weight", "0"], ["--mix-sample", "0"]):
        assert train.main([*QUICK, "--epochs", "1", *flags]) == 0
        assert ("--mix-sample 0" in capsys.readouterr().err) == ("--mix-sample" not in flags)
        network, _ = load(fresh.root / "weights/model.safetensors", torch.device("cpu"))
        learned.append(network.maps[0][1].weight.detach())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (learned[i] - learned[j]).abs().max() > 1e-5


def test_other_classes_are_refused(fresh, capsys):
    (fresh.root / "data/train/Negative").rename(fresh.root / "data/train/cats")
    assert train.main([*QUICK, "--mix-sample", "0.5"]) == 2
    assert "--mix-sample generates synthetic cracks" in capsys.readouterr().err
