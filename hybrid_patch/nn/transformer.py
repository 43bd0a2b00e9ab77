"""Transformer blocks: pre-norm, self- or cross-attention, GELU MLP."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_patch.config import schema


class Attention(nn.Module):
    """Multi-head attention of tokens to a context (their own sequence, or another)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"], keep: Bool[Tensor, "b m"] | None
    ) -> Float[Tensor, "b n d"]:
        """`keep` is False at context tokens that are padding; None if there are none."""
        query = rearrange(self.query(x), "b n (h c) -> b h n c", h=self.heads)
        key, value = rearrange(self.key_value(context), "b m (two h c) -> two b h m c", two=2, h=self.heads)
        mask = None if keep is None else keep[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(attended, "b h n c -> b n (h c)"))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"] | None, keep: Bool[Tensor, "b m"] | None
    ) -> Float[Tensor, "b n d"]:
        """Self-attention where `context` is None; `keep` masks the sequence that is attended to."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed if context is None else context, keep)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """Blocks in a row, and a norm at the end."""

    def __init__(self, size: schema.Transformer, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size.width, size.heads, size.mlp_ratio) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.gradient_checkpointing = gradient_checkpointing
        self.apply(_initialise)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"] | None, keep: Bool[Tensor, "b m"] | None
    ) -> Float[Tensor, "b n d"]:
        """All blocks over `x`; each attends to `context`, or to `x` itself where that is None."""
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, context, keep, use_reentrant=False)
            else:
                x = block(x, context, keep)
        return self.norm(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
