"""The results of a run as one web page that can be mailed: everything is in the file, and it loads nothing.

A page is made from the document that the scripts write as JSON, and from arrays: images, heatmaps, masks. Keys that are
missing leave their part of the page out; numbers without a place of their own (in a row of ``pictures``, or beside the
``max`` of a heatmap) are shown under their own names, and images can be sorted by them.
"""

from crackcam.render.report.cards import MAP_SIDE, Heatmaps
from crackcam.render.report.page import write, write_training

__all__ = ["MAP_SIDE", "Heatmaps", "write", "write_training"]
