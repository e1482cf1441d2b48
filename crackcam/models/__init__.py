"""Models: architectures, weights, heads, layers to explain, checkpoints, and ONNX files."""
