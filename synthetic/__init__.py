"""Synthetic multimodal tasks whose answers are known: one task per file, exact truths in `synthetic.theory`.

The modules directly in this package are the tasks, and each names its class in `__all__`. What they share lives in
the subpackages: `theory` (information, Bayes accuracy, loss optima) and `world` (what an encoder sees of a code).
Listing the tasks must not pay for torch, so this file imports nothing.
"""
