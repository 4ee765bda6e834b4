"""Products of Householder-like matrices H_t = 1 - beta_t w_t w_t^T, a chunk of tokens at once (the UT transform).

With T = (1 + strictly lower(diag(beta) W W^T))^-1 diag(beta) for the tokens of a chunk, one after the other in the rows
of W and K, their product H_last ... H_first is 1 - W^T T W, and k_j^T H_{j + 1} ... H_last is row j of
K - (T strictly lower(W K^T))^T W. Section 3.3 of Yang et al., arXiv 2505.16381.
"""

from __future__ import annotations

import torch

# What a chunk's triangle is solved in. With beta near 2 and w alike it is ill-conditioned: in float32, products of 200
# tokens lost 9 times and more what they lose factor by factor, the more the longer a chunk is.
SOLVED_IN = torch.float64


def solved(w: torch.Tensor, k: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """T W beside T strictly lower(W K^T), [..., C, D + C], of chunks w and k [..., C, D] and beta [..., C, 1]."""
    exact = w.dtype if w.device.type == "mps" else SOLVED_IN  # which has no float64
    w_x, k_x, beta_x = w.to(exact), k.to(exact), beta.to(exact)
    right = beta_x * torch.cat([w_x, (w_x @ k_x.mT).tril(-1)], -1)
    left = beta_x * (w_x @ w_x.mT).tril(-1)
    return torch.linalg.solve_triangular(left, right, upper=False, unitriangular=True).to(w.dtype)  # of 1 + left
