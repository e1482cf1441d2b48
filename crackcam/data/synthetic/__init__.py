"""Synthetic images of cracks: the sample data set, and training images with synthetic cracks.

From the bottom up: ``noise`` and ``paths``; ``surfaces``, ``distractors``, ``cracks`` and ``camera``, which together
make an image; ``sample``, the generated data set; ``examples`` and ``datasets``, images to train on. Only ``datasets``
needs torch.
"""

from crackcam.data.synthetic.sample import write_sample

__all__ = ["write_sample"]
