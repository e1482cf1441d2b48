"""What a user looks at: heatmaps over images, figures, the HTML report."""
