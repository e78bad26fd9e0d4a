"""The least value of Symile with all negatives: the candidates of an anchor x_i are all pairs (y_j, z_k) of a batch.

B samples give B^2 candidates, which share their members, so the factorisation of `synthetic.theory.optima` does not
hold. The optimum is known exactly where any two modalities are independent and determine the third, each symbol as
likely as another: tasks whose table of outcomes is a Latin square, such as XOR and sums mod K.

 1. The other samples' y and z are then independent of one another and of x, so the posterior of which pair is the true
    one is r(x, y_j, z_k) over its sum, r = p(x, y, z) / p(x) p(y) p(z). No critic does better than that, and r is K or
    0: L* = E log W, W the number of pairs (j, k) in the batch that fit the anchor.
 2. Let n_c of the other samples have the c-th value of y, m_c the value of z that fits it: two independent multinomials
    of B - 1, and W = (n_1 + 1) (m_1 + 1) + sum_{c > 1} n_c m_c, where 1 is the anchor's own.
 3. log W = log w + int_0^inf (e^-tw - e^-tW) / t dt  (Frullani), w near E W, by the trapezoidal rule in log t.
 4. As Poisson variables of mean (B - 1) / K, all n_c and m_c are independent and E e^-tW factors. Fixing both sums to
    B - 1 makes them multinomial again: E e^-tW is a coefficient of the product of the factors' generating functions,
    over the probability of the sums, and is read from their discrete Fourier transform.

Trap: the transform is cyclic. Its length leaves sums that wrap around to B - 1 a probability below e^-50.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum

if TYPE_CHECKING:
    from jaxtyping import Complex128, Float64


def symile_all_optimum(joint: Joint, batch: int) -> Optimum | None:
    """Compute the optimum of Symile (arXiv 2411.01053) with all B^2 - 1 negatives of three modalities; None where no
    exact value is known.

    Raises ValueError when `batch` < 2 or there are not three modalities.
    """
    if batch < 2:
        raise ValueError(f"batch ({batch}) has no negatives: at least 2 are needed")
    if len(joint.codes) != 3:
        raise ValueError(f"Symile with all negatives contrasts 3 modalities, not {len(joint.codes)}: use `n` negatives")
    size = _order_of_latin_square(joint)
    return None if size is None else Optimum(_expected_log_count(size, batch), 2 * math.log(batch))


def _order_of_latin_square(joint: Joint) -> int | None:
    """Return K where each modality is uniform on K values, any two on K^2 pairs, and all three on K^2 triples; else
    None."""
    a, b, c = joint.codes
    singles, larger = ((a,), (b,), (c,)), ((a, b), (a, c), (b, c), (a, b, c))
    size = len(joint.group((a,))[1])
    outcomes = [(size, joint.group(m)[1]) for m in singles] + [(size**2, joint.group(m)[1]) for m in larger]
    return size if all(len(p) == number and np.allclose(p, 1 / number) for number, p in outcomes) else None


def _expected_log_count(size: int, batch: int) -> float:
    """Compute E log W: steps 2 to 4."""
    others = batch - 1
    weight = _poisson(others / size, min(others, math.ceil(others / size + 12 * math.sqrt(others / size) + 40)))
    length = 2 ** math.ceil(math.log2(max(len(weight), 10 * math.sqrt(others) + 40)))
    count = np.arange(len(weight))
    fit, own = np.outer(count, count), np.outer(count + 1, count + 1)
    alike = np.outer(weight, weight)  # probabilities, so that powers of their transform stay within 1
    last = alike / _poisson(others, others)[-1] ** 2

    def transform(law: Float64[np.ndarray, "n n"]) -> Complex128[np.ndarray, "length half"]:
        return np.fft.rfft2(law, (length, length))

    def laplace(t: float) -> float:
        product = transform(alike * np.exp(-t * fit)) ** (size - 1) * transform(last * np.exp(-t * own))
        return float(np.fft.irfft2(product, (length, length))[others % length, others % length])

    h, mean = 0.3, 1 + 2 * others / size + others**2 / size
    # Below the first node the integrand is about t (E W - w) = 0 and then t^2; above the last both terms are < 1e-16.
    nodes = np.exp(np.arange(math.log(1e-8 / mean), math.log(40), h))
    return math.log(mean) + h * sum(math.exp(-t * mean) - laplace(t) for t in nodes)


def _poisson(mean: float, top: int) -> Float64[np.ndarray, " n"]:
    """Compute the Poisson probabilities of 0 .. top."""
    count = np.arange(top + 1)
    log_factorial = np.concatenate([[0.0], np.log(count[1:]).cumsum()])
    return np.exp(count * math.log(mean) - mean - log_factorial)
