from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from hybrid_patch.config.field_types import Width
from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD
from hybrid_patch.data.batch import Guide
from hybrid_patch.data.local_statistics import local_moments, log_deviation
from hybrid_patch.model.interpolation import repeat_cells
from hybrid_patch.model.random_features import RandomFeatures
from hybrid_patch.model.tokens import FineTokens, TokenGrid
from hybrid_patch.model.upsampler import TokenSpec, Upsampler

KERNEL = 3
"""Side of the convolution over pixels (or output patches)."""


class Guided(Upsampler):
    """Interpolation plus a detail of low rank: `gelu(mix(gelu(conv(pixels) + U (P A))))`, and the position's spectrum.

    The idea is joint upsampling (Kopf et al. 2007, "Joint bilateral upsampling"). The convolution sees the bands of a
    position and its neighbours, and whether each band set is visible there. The spectrum, on a skip path, is the
    position's bands, the log-deviation of each in the pixels up to `deviation_radius` away, and `RandomFeatures` of its
    bands: the convolution alone learns two or three directions of the bands (docs/results.md). Each feature is
    multiplied by a gate, `1 + U (P A)` with A trained from 0: what a spectrum means depends on its surroundings.
    With `adapter` numbers in a hidden layer, P is `P + mlp(P)`, for an encoder that is frozen: where its tokens at this
    patch size differ from those at the output's, they differ by more than a detail of the pixels.

    It must not leak: pixels whose token is hidden, that are missing, or that the guide mask drops are zeros in all of
    it, so it serves the encoder's tokens only. Pixel dropout keeps it from copying what the `visible` loss asks for.
    """

    needs_pixels = True

    def __init__(
        self,
        tokens: TokenSpec,
        *,
        rank: Width,
        random_features: Annotated[Width, Field(ge=0)],
        deviation_radius: Annotated[Width, Field(ge=0)],
        adapter: Annotated[Width, Field(ge=0)],
    ) -> None:
        super().__init__()
        width = tokens.width
        inputs = {name: modality for name, modality in tokens.modalities.items() if not modality.decode_only}
        self.sets = {name: len(modality.band_sets) for name, modality in inputs.items()}
        self.radius = deviation_radius
        self.pixels = nn.ModuleDict()
        for name, modality in inputs.items():
            channels = modality.channels + self.sets[name]
            self.pixels[name] = nn.Conv2d(channels, rank, KERNEL, padding=KERNEL // 2)
            owner = torch.zeros(modality.channels, dtype=torch.long)
            for s, bands in enumerate(modality.band_set_channels):
                owner[list(bands)] = s
            self.register_buffer(f"owner_{name}", owner, persistent=False)
        self.context = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, rank)))
        self.mix = nn.Linear(rank, rank)
        self.basis = nn.Parameter(torch.zeros(rank, width))
        moments = 2 if deviation_radius else 1
        self.bands = nn.ParameterDict(
            {n: nn.Parameter(torch.zeros(moments * m.channels, width)) for n, m in inputs.items()}
        )
        self.random = nn.ModuleDict({n: RandomFeatures(m.channels, random_features, width) for n, m in inputs.items()})
        self.adapter = nn.Sequential()
        if adapter:
            self.adapter.extend([nn.Linear(width, adapter), nn.GELU(), last := nn.Linear(adapter, width)])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.gate = nn.ParameterDict({n: nn.Parameter(torch.zeros(width, random_features)) for n in inputs})

    def adapted(self, grid: TokenGrid) -> TokenGrid:
        """The tokens with the adapter's share added."""
        return TokenGrid(grid.tokens + self.adapter(grid.tokens), grid.mask) if len(self.adapter) else grid

    def detail(self, fine: FineTokens, guide: Guide | None) -> tuple[Tensor, Tensor]:
        """Raises ValueError without a guide."""
        if guide is None:
            raise ValueError("the guided upsampler needs the pixels that its tokens were made of")
        name, factor, positions, mask = guide.name, fine.factor, fine.positions, fine.grid.mask
        pixels, visible_mask = self._visible(mask, guide)
        side = guide.pixels.shape[1] // mask.shape[1] // factor  # of an output patch

        def at_positions(values: Float[Tensor, "bvt h w p k"]) -> Float[Tensor, "bv n p k"]:
            by_cell = rearrange(values, "(b t) h w p k -> b (h w t) p k", b=len(mask)).contiguous()
            return positions.cells.over(mask.shape[-1]).gather(by_cell)

        def looked_at(images: Float[Tensor, "bvt k fh fw"]) -> Float[Tensor, "bv n p k"]:
            return at_positions(at_subpixels(images, factor, positions.subpixels))

        images = F.avg_pool2d(torch.cat([pixels, visible_mask], dim=1), side)
        convolution, random = self.pixels[name], self.random[name]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(random, RandomFeatures)
        convolved = at_positions(convolved_at_subpixels(convolution, images, factor, positions.subpixels))
        from_tokens = fine.transform(torch.cat([self.context, self.gate[name]], dim=1)).dense()
        context, gate = from_tokens.tensor_split([self.context.shape[1]], dim=-1)
        detail = F.gelu(self.mix(F.gelu(convolved + context)))
        bands, features = self._spectrum(name, looked_at(images), 1 + gate)
        local = []
        if self.radius:
            local.append(looked_at(F.avg_pool2d(self._deviations(name, pixels, visible_mask), side)))
        basis = torch.cat([self.basis, self.bands[name], random.basis()])
        return torch.cat([x.to(detail.dtype) for x in (detail, bands, *local, features)], dim=-1), basis

    def _spectrum(
        self, name: str, looked_at: Float[Tensor, "b n p _"], gate: Float[Tensor, "b n p f"]
    ) -> tuple[Float[Tensor, "b n p c"], Float[Tensor, "b n p f"]]:
        """Normalised bands, and random features of them times their gates; zeros where hidden."""
        owner = self.get_buffer(f"owner_{name}")
        pixels, visible_share = looked_at.tensor_split([len(owner)], dim=-1)
        share = visible_share.index_select(-1, owner)  # of an output patch's pixels
        bands = (pixels - NORMALISED_MEAN * share) / NORMALISED_STD
        means = bands / torch.where(share > 0, share, 1)
        return bands, self.random[name](means) * gate * visible_share.amax(-1, keepdim=True)

    def _deviations(
        self,
        name: str,
        pixels: Float[Tensor, "bvt c height width"],
        visible_mask: Float[Tensor, "bvt s height width"],
    ) -> Float[Tensor, "bvt c height width"]:
        """The log-deviation of each band's visible pixels around each pixel."""
        owner = self.get_buffer(f"owner_{name}")
        valid = visible_mask if self.sets[name] == 1 else visible_mask.index_select(1, owner)
        _, deviation = local_moments(pixels, valid > 0, 2 * self.radius + 1)
        return log_deviation(deviation)

    def _visible(
        self, mask: Bool[Tensor, "bv h w t s"], guide: Guide
    ) -> tuple[Float[Tensor, "bvt c height width"], Float[Tensor, "bvt s height width"]]:
        """Each band's pixels, zeros where hidden, and the visibility of each band set."""
        views, patch_size = len(mask) // len(guide.pixels), guide.pixels.shape[1] // mask.shape[1]
        pixels, pixel_mask = (x.repeat_interleave(views, 0) for x in (guide.pixels, guide.valid))
        if guide.guide_mask is not None:
            pixel_mask = pixel_mask & guide.guide_mask
        visible_mask = repeat_cells(mask, patch_size) & pixel_mask[..., None]
        visible_bands = visible_mask.index_select(-1, self.get_buffer(f"owner_{guide.name}"))
        pixels, shown = (
            rearrange(x, "b height width t c -> (b t) c height width")
            for x in (torch.where(visible_bands, pixels, 0), visible_mask.to(pixels.dtype))
        )
        return pixels, shown


def at_subpixels(
    image: Float[Tensor, "n k fh fw"], factor: int, subpixels: Int[Tensor, " p"]
) -> Float[Tensor, "n h w p k"]:
    cells = rearrange(image, "n k (h i) (w j) -> n h w (i j) k", i=factor, j=factor)
    return cells.index_select(3, subpixels)


def convolved_at_subpixels(
    convolution: nn.Conv2d, images: Float[Tensor, "n k fh fw"], factor: int, subpixels: Int[Tensor, " p"]
) -> Float[Tensor, "n h w p r"]:
    """A convolution at some subpixels of all cells: of few (one or two are drawn in long series), around them alone."""
    if KERNEL**2 * len(subpixels) >= factor**2:
        return at_subpixels(convolution(images), factor, subpixels)
    padded = F.pad(images, [KERNEL // 2] * 4)
    side = factor + KERNEL - 1
    cells = padded.unfold(2, side, factor).unfold(3, side, factor)
    step = torch.arange(KERNEL, device=subpixels.device)
    rows = (subpixels // factor)[:, None, None] + step[:, None]
    columns = (subpixels % factor)[:, None, None] + step
    windows = rearrange(cells[..., rows, columns], "n k h w p y x -> n h w p (k y x)")
    return F.linear(windows, convolution.weight.flatten(1), convolution.bias)
