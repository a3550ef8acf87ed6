"""The small set of operations every network is written against, as descriptions.

A description holds its operands and knows the shape of its result; constructing one checks that the operands
fit, before any kernel touches memory. Backends (`reference.py`, `plan.py`) give it values.

    model ── backend.conv(x, weight, ...) ── Conv(...) described and checked ── backend.execute(op) ── Rows

Epilogues share one order: activation(op(x) + bias + table + residual), where `table` holds one row per image
(the time embedding) and `residual` one row per output row.
"""

from tinydiff_kernels.operations.attention import Attention
from tinydiff_kernels.operations.base import Activation, Border, Operation, Padding
from tinydiff_kernels.operations.embedding import Embed, TimestepEmbedding
from tinydiff_kernels.operations.matmul import Conv, Geglu, Linear
from tinydiff_kernels.operations.norm import GroupNorm, LayerNorm
from tinydiff_kernels.operations.simple import Activate, Add, Affine, Concat, TakeRow

__all__ = [
    "Activate",
    "Activation",
    "Add",
    "Affine",
    "Attention",
    "Border",
    "Concat",
    "Conv",
    "Embed",
    "Geglu",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Operation",
    "Padding",
    "TakeRow",
    "TimestepEmbedding",
]
