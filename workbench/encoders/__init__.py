"""Encoders: one tower per modality, raw samples in, `Features` out. One class per file; the file name is its name."""
