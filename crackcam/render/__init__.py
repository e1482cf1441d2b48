"""Overlays, figures, HTML reports."""
