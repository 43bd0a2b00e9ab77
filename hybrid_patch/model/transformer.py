"""Transformer blocks: pre-norm, self- or cross-attention, GELU MLP."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybrid_patch.config import schema

Context = Float[Tensor, "b m d"] | None
"""What tokens attend to; None: each other."""
PaddingMask = Bool[Tensor, "b m"] | None
"""False at padding in what is attended to; None without padding."""
PathScale = Float[Tensor, "b 2"] | None
"""What the attention and the MLP of a block are multiplied by, for each row of the batch; None: 1."""


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], context: Context, padding_mask: PaddingMask) -> Float[Tensor, "b n d"]:
        if context is None:
            parts = self.qkv(x).chunk(3, dim=-1)
        else:
            weight, bias, width = self.qkv.weight, self.qkv.bias, self.width
            query = F.linear(x, weight[:width], bias[:width])
            parts = (query, *F.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mask = None if padding_mask is None else padding_mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, either times its scale; the context is not normalised."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, x: Float[Tensor, "b n d"], context: Context, padding_mask: PaddingMask, scale: PathScale
    ) -> Float[Tensor, "b n d"]:
        attended = self.attention(self.attention_norm(x), context, padding_mask)
        x = x + (attended if scale is None else scale[:, 0, None, None] * attended)
        hidden = self.mlp(self.mlp_norm(x))
        return x + (hidden if scale is None else scale[:, 1, None, None] * hidden)


class Transformer(nn.Module):
    """A stack of blocks and a final norm; `gradient_checkpointing` keeps only the blocks' inputs for backward.

    With a path mask, blocks leave residual branches out, and scale the others up, so that their sum has the same
    expectation: stochastic depth (Huang et al. 2016, "Deep Networks with Stochastic Depth"), at one rate in all blocks.
    """

    def __init__(self, size: schema.Transformer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size.width, size.heads, size.mlp_ratio) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.drop_path = size.drop_path
        self.gradient_checkpointing = False
        self.apply(_initialise)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Context,
        padding_mask: PaddingMask,
        path_mask: Bool[Tensor, "b depth 2"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The path mask is False at the attention and the MLP of blocks that are left out; None: at none of them."""
        for number, block in enumerate(self.blocks):
            scale = None if path_mask is None else path_mask[:, number].to(x.dtype) / (1 - self.drop_path)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, context, padding_mask, scale, use_reentrant=False)
            else:
                x = block(x, context, padding_mask, scale)
        return self.norm(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention):
        for part in module.qkv.weight.chunk(3):  # three matrices in one parameter
            nn.init.xavier_uniform_(part)
