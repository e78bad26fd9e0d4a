"""The Triton kernels of the `triton` backend, by tiles of logits: log-sum-exps, gradients, the sigmoid, Khatri-Rao.

Only this package and `kernels.fused` import triton. `launch` is the door: it owns scratch and the order of launches.
"""
