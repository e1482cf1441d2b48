"""Image files, class folders, splits, synthetic images."""
