"""Objectives: views in, loss out. Presets of contrast terms, and methods that are no sum of terms. One class per file."""
