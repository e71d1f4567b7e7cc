"""Which member for my device: a search over a trained family, and what it found as tables, plots and a page."""
