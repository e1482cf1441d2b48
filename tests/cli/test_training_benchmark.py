"""benchmarks/training.py in short: what it measures of ours."""

import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import training_worker


def test_the_unit_and_the_probe(tiny_data, imagenet_weights):
    seconds = training_worker.bare({"data": tiny_data, "arch": "squeezenet1_0", "batch_size": 8})
    assert seconds.keys() == {"bare", "reading", "probe"}
    assert min(seconds.values()) > 0
