"""Evaluation of heatmaps: measured regions, scores against masks and against the model, verification."""
