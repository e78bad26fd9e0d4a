"""Objectives: views in, loss out. Presets of contrast terms, and methods that are none. One class per file."""
