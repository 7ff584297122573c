"""What people look at: heatmaps, tables, pages and progress."""
