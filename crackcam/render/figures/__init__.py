"""Every figure that is written to disk: grids of images, the course of a training, Grad-CAM step by step."""

from crackcam.render.figures.comparison_table import ComparisonRow, comparison
from crackcam.render.figures.gradcam_steps import AnatomySteps, anatomy
from crackcam.render.figures.grids import (
    detection_grid,
    detection_side,
    detection_tile,
    heatmap_grid,
    prediction_grid,
)
from crackcam.render.figures.layout import DPI, model_label
from crackcam.render.figures.tiles import Box, Tile
from crackcam.render.figures.training import confusion_matrix, reliability, training_curves

__all__ = [
    "DPI",
    "AnatomySteps",
    "Box",
    "ComparisonRow",
    "Tile",
    "anatomy",
    "comparison",
    "confusion_matrix",
    "detection_grid",
    "detection_side",
    "detection_tile",
    "heatmap_grid",
    "model_label",
    "prediction_grid",
    "reliability",
    "training_curves",
]
