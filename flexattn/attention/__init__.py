"""Attention with a window for every query: one operator, and what an encoder needs around it.

    local       the operator: local_attention, local_attention_multi    reference   its definition
    banded      CPU (Numba): tiles is what a thread does, lanes what its vectors do, team who does it
    kernel      GPU (Triton): tile_kernel in products, keywise_kernel key by key    layout   where results lie
    blocked     GPU, long texts, its kernels in blocked_kernel
    differentiable   two kernels as one operator with gradients
    patterns    sinks and local blocks, packed episodes
    cache       ring buffer for decoding, on GPU by decode
    heads       multi-head, grouped-query    positions   RoPE, ALiBi     gate        sigmoid gate per head
    norm        RMSNorm                      feedforward SwiGLU          encoder     all of it together

Only torch is needed to import this package; Numba and Triton are imported where they are used.
"""

from __future__ import annotations

from flexattn.attention.encoder import Encoder, EncoderConfig
from flexattn.attention.local import local_attention, local_attention_multi

__all__ = ["Encoder", "EncoderConfig", "local_attention", "local_attention_multi"]
