"""Networks and images of the tests of documented examples."""

import functools

import cv2
import numpy as np
import torch
import torchvision
from networks import activations_and_gradients, finished
from torch import nn

from pytorch_grad_cam.utils.image import preprocess_image


@functools.cache
def rgb_image():
    """Smooth noise with a bright square: (96, 96, 3) float32 in [0, 1]."""
    random = np.random.default_rng(0)
    image = cv2.GaussianBlur(random.random((96, 96, 3), dtype=np.float32), (0, 0), 5)
    image[24:48, 40:72] = 1
    return np.float32(image)


@functools.cache
def input_batch():
    """The image as network input, (1, 3, 96, 96)."""
    return preprocess_image(rgb_image(), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@functools.cache
def resnet():
    """ResNet-18 with random weights, batch norm statistics of the image, and different scores for different classes."""
    torch.manual_seed(0)
    network = with_statistics(torchvision.models.resnet18(num_classes=300), input_batch())
    nn.init.normal_(network.fc.weight, std=0.2)
    return network


def with_statistics(network, x):
    """The network in eval mode with batch norm statistics of images like ``x``.

    Without them, deep networks with random weights have the same output for all images.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x + 0.2 * torch.randn(4, *x.shape[1:]))
    return network.eval()


def finished_map(layer_map, size):
    """The last steps of every method, for one map: (h, w) to a numpy array of ``size``."""
    return finished(layer_map[None], size)[0]


def grad_cam_by_hand(model, layer, x, category, shaped=lambda tensor: tensor):
    a, g = (shaped(tensor) for tensor in activations_and_gradients(model, layer, x, [category]))
    return finished_map((g.mean(dim=(2, 3), keepdim=True) * a).sum(1)[0], tuple(x.shape[2:]))
