"""Fusion modules: features of several modalities in, one vector of the shared space out. One class per file."""
