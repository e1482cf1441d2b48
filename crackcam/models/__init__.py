"""Architectures, pretrained weights, heads, target layers, checkpoints."""
