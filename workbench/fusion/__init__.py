"""Fusion modules make one vector of the shared space of the features of several modalities. One class per file."""
