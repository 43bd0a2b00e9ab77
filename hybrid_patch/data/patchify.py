"""Split images into patches, and patches into smaller ones: row by row, channels last."""

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor


def patchify(images: Shaped[Tensor, "b height width t *c"], patch_size: int) -> Shaped[Tensor, "b h w t p q *c"]:
    """`[B, H, W, T, ...]` → `[B, H/ps, W/ps, T, ps, ps, ...]`."""
    patches = rearrange(images, "b (h p) (w q) t ... -> b h w t p q ...", p=patch_size, q=patch_size)
    return patches.contiguous()  # it is read several times


def repatchify(patches: Shaped[Tensor, "*n p q c"], patch_size: int) -> Shaped[Tensor, "*n subpixels m"]:
    """Patches `[..., p, q, C]` → smaller ones `[..., (p/ps)(q/ps), C ps^2]`, row by row, each flattened to a vector."""
    if patch_size == 1:
        return patches.flatten(-3, -2)
    return rearrange(patches, "... (i u) (j v) c -> ... (i j) (u v c)", u=patch_size, v=patch_size)
