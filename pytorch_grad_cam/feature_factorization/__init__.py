"""Factorisation of a layer's activations into concepts."""
