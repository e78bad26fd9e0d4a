"""Measurements of the workbench itself, each a module to run; those of the kernels are in kernels/bench."""
