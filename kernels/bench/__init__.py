"""`python -m kernels.bench`: the chunked losses against the dense ones a person would write."""
