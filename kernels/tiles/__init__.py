"""The Triton kernels of the `triton` backend, by tiles of logits: log-sum-exps, gradients, the sigmoid, Khatri-Rao.

`losses` is the backend that the dispatch asks for. `launch` owns scratch and the order of launches. Nothing outside
of this package imports triton.
"""
