"""Helpers around the maps: pictures in and out, targets, projections."""
