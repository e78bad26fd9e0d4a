"""Callbacks: what happens around a training step without changing it. One class per file."""
