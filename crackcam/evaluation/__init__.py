"""Heatmaps scored and measured."""
