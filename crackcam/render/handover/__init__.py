"""Findings as files for other programs: a table, GeoJSON, COCO.

All are written from rows that stream, so that memory does not grow with the number of images.
"""
