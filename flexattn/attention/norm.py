"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight.

torch.nn.RMSNorm computes it in one pass (torch 2.4 or later) and is used as it is.

Source: Zhang and Sennrich 2019, arXiv:1910.07467.
"""

from __future__ import annotations

from torch.nn import RMSNorm

__all__ = ["RMSNorm"]
