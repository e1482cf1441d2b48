"""Data sets: image files, class folders, splits, and what is wrong with them."""
