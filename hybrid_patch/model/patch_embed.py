"""Flexible patch embedding: one kernel, resized to the patch size of the step."""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.data.local_statistics import log_deviation
from hybrid_patch.data.patchify import patchify
from hybrid_patch.model.profiling import EMBEDDING, profiled


@functools.lru_cache(maxsize=64)
def kernel_resize(
    base: int, size: int, dtype: torch.dtype, device: torch.device, bicubic: bool = False
) -> Float[Tensor, "base2 size2"]:
    """The matrix that resizes a kernel of side `base` to side `size`, for row vectors: `[base^2, size^2]`.

    FlexiViT's pseudo-inverse resize (Beyer et al. 2023, "FlexiViT: One Model for All Patch Sizes", section 3.4): with B
    resizing patches, `pinv(B^T) w` keeps the inner product with a patch, in least squares. Patches are enlarged
    bilinearly and reduced to area means, so that uniform ground has the same embedding at every divisor of the base.
    With `bicubic` they are resized as in the released weights of FlexiViT and Galileo, with antialiasing.
    """
    eye = torch.eye(base**2, dtype=torch.float64).reshape(base**2, 1, base, base)
    if bicubic:
        resized = F.interpolate(eye, (size, size), mode="bicubic", antialias=True)
    else:
        resized = F.interpolate(eye, (size, size), mode="bilinear" if size >= base else "area")
    return torch.linalg.pinv(resized.reshape(base**2, size**2)).mT.to(device, dtype)


class PatchEmbed(nn.Module):
    """Patches of one modality → one token per patch, timestep and band set.

    A band set's kernel of side `base_patch_size` is resized to other patch sizes (`kernel_resize`); pixels never are.
    With a `pixel_hidden_width`, kernels look at a hidden layer of each pixel's bands, `relu(W x + b)`, in place of the
    bands; it is zero where a pixel is missing. With `statistics`, a linear map of the mean and the log-deviation of
    each band over a patch's valid pixels is added: no linear embedding of a patch is its deviation. Those of uniform
    ground are the same at all patch sizes.
    """

    def __init__(
        self,
        modality: Modality,
        width: int,
        base_patch_size: int,
        pixel_hidden_width: int | None,
        statistics: bool,
    ) -> None:
        super().__init__()
        self.base = base_patch_size
        self.channels = modality.band_set_channels
        hidden = [] if pixel_hidden_width is None else [nn.Linear(len(c), pixel_hidden_width) for c in self.channels]
        self.hidden = nn.ModuleList(hidden)
        inputs = [pixel_hidden_width or len(c) for c in self.channels]
        self.kernels = nn.ParameterList(torch.empty(base_patch_size**2 * n, width) for n in inputs)
        self.bias = nn.Parameter(torch.zeros(len(self.channels), width))
        for s, channels in enumerate(self.channels):
            self.register_buffer(f"channels_{s}", torch.tensor(channels), persistent=False)
        for kernel in self.kernels:
            nn.init.trunc_normal_(kernel, std=len(kernel) ** -0.5)
        self.statistics = nn.ModuleList(nn.Linear(2 * len(c), width, bias=False) for c in self.channels if statistics)

    def kernel(self, band_set: int, patch_size: int) -> Float[Tensor, "in width"]:
        """The kernel of a band set at a patch size, `[ps^2 C, D]`, pixel by pixel, row by row; C inputs of a pixel."""
        kernel = self.kernels[band_set]
        if patch_size == self.base:
            return kernel
        resize = kernel_resize(self.base, patch_size, kernel.dtype, kernel.device)
        return (resize.mT @ kernel.reshape(self.base**2, -1)).reshape(-1, kernel.shape[1])

    @profiled(EMBEDDING)
    def forward(
        self, patches: Float[Tensor, "b h w t p q c"], valid: Bool[Tensor, "b height width t"]
    ) -> Float[Tensor, "b h w t s d"]:
        """The tokens of normalised patches, zeros where their pixels are not valid."""
        size, every = patches.shape[-2], tuple(range(patches.shape[-1]))
        pixel_mask = patchify(valid, size)
        moments = patch_moments(patches, pixel_mask) if len(self.statistics) else ()
        tokens = []
        for s, channels in enumerate(self.channels):
            pixels, *statistics = (
                x if channels == every else x.index_select(-1, self.get_buffer(f"channels_{s}"))
                for x in (patches, *moments)
            )
            if len(self.hidden):
                pixels = torch.where(pixel_mask[..., None], F.relu(self.hidden[s](pixels)), 0)
            token = F.linear(pixels.flatten(-3), self.kernel(s, size).mT, self.bias[s])
            tokens.append(token + self.statistics[s](torch.cat(statistics, dim=-1)) if statistics else token)
        return torch.stack(tokens, dim=4)


def patch_moments(
    patches: Float[Tensor, "*n p q c"], valid: Bool[Tensor, "*n p q"]
) -> tuple[Float[Tensor, "*n c"], Float[Tensor, "*n c"]]:
    """Mean and log-deviation of each band over the valid pixels of patches, both scaled to about -1 to 1."""
    mask = valid[..., None].to(patches.dtype)
    count = mask.sum((-3, -2)).clamp(min=1)
    centred = (patches - NORMALISED_MEAN) * mask
    mean = centred.sum((-3, -2)) / count
    variance = (centred.square().sum((-3, -2)) / count - mean.square()).clamp(min=0)
    return mean / NORMALISED_STD, log_deviation(variance.sqrt())
