"""Data sets: raw samples, evaluation splits, and nothing about how they are encoded. One class per file."""
