"""Per-token estimates of KL(pi || pi_ref) from one sampled token, after J. Schulman, "Approximating KL Divergence" (2020).

With l = log(pi_ref / pi), a token drawn from pi_old, and w = pi / pi_old:

    name          estimate               value    gradient, as a loss, where tokens are drawn from pi itself
    k1            -l                     right    zero on average: noise
    k2            l^2 / 2                biased   right: KL(pi || pi_ref)'s
    k3            e^l - l - 1            right    of another divergence: KL(pi_ref || pi)'s
    corrected_k3  w (e^l - l - 1)        right    right, and both stay right where pi_old is not pi

`tests/test_kl.py` checks each entry by enumerating a vocabulary. Values may be off where pi_old is not pi, except the last.
The gradients are those of one token's KL given its prefix, which is what every system of the table's kind optimises.
"""

from __future__ import annotations

from torch import Tensor

from rl.losses.config import KlName


def kl_estimate(name: KlName, logprobs_T: Tensor, reference_logprobs_T: Tensor, ratio_T: Tensor) -> Tensor:
    """float32 [T] from log pi, log pi_ref and pi / pi_old of the sampled tokens; differentiable in pi."""
    log_r_T = reference_logprobs_T - logprobs_T
    match name:
        case "k1":
            return -log_r_T
        case "k2":
            return 0.5 * log_r_T.square()
        case "k3":
            return k3(log_r_T)
        case "corrected_k3":  # DeepSeek-V3.2, arXiv 2512.02556, equation 7
            return ratio_T * k3(log_r_T)


def k3(log_r_T: Tensor) -> Tensor:
    return log_r_T.exp() - log_r_T - 1
