"""A recipe's life in a folder: training, resuming, reporting, loading, and what it will cost."""
