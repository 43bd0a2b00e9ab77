"""Heads: the labels of pixels, classes or numbers, from the embeddings of pixels.

A pixel's embedding is the mean of its fine tokens over modalities, timesteps and band sets. Heads begin with a linear
map of it, which commutes with interpolation and with the mean: it is applied to the factors of fine tokens, and only
its result, of a few numbers, is made for every pixel.
"""

import abc
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hybrid_patch.config.head_options import ConvHead, LinearHead, NoHead
from hybrid_patch.model.pooling import Projection, mean
from hybrid_patch.model.tokens import FineGrid

SMALLEST_SCALE = 1e-6
"""Of numbers that are the same everywhere."""


class Head(nn.Module, abc.ABC):
    """Predicts the labels of pixels; without `classes`, one number each.

    Embeddings are standardised first, by statistics that are fitted to the first crops of a training, and so are the
    numbers that it learns. All statistics are part of the weights.
    """

    embedding_mean: Float[Tensor, " d"]
    embedding_scale: Float[Tensor, " d"]
    label_mean: Float[Tensor, ""]
    label_scale: Float[Tensor, ""]

    def __init__(self, width: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.outputs = len(classes) or 1
        self.register_buffer("embedding_mean", torch.zeros(width))
        self.register_buffer("embedding_scale", torch.ones(width))
        self.register_buffer("label_mean", torch.zeros(()))
        self.register_buffer("label_scale", torch.ones(()))

    @abc.abstractmethod
    def forward(self, grids: Sequence[FineGrid]) -> Float[Tensor, "b fh fw k"]:
        """Of fine tokens everywhere, one modality after the other: the logits of classes, or a standardised number.

        Zeros, or what is near, where all tokens are missing.
        """

    def predictions(self, outputs: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
        """The probabilities of classes, or a number in the unit of the labels, from what `forward` returns."""
        return outputs.softmax(-1) if self.classes else outputs * self.label_scale + self.label_mean

    def fit_embeddings(self, embeddings: Iterable[Float[Tensor, "_ d"]]) -> None:
        """Fit the statistics of embeddings."""
        average, deviation = _moments(embeddings)
        self.embedding_mean.copy_(average)
        self.embedding_scale.copy_(deviation)

    def fit_numbers(self, numbers: Iterable[Float[Tensor, " _"]]) -> None:
        """Fit the statistics of labels that are numbers."""
        average, deviation = _moments(each[:, None] for each in numbers)
        self.label_mean.copy_(average[0])
        self.label_scale.copy_(deviation[0])

    def _pooled(self, grids: Sequence[FineGrid], linear: nn.Linear) -> Float[Tensor, "b fh fw k"]:
        """A linear map of standardised embeddings; zeros where all tokens are missing."""
        weight = linear.weight.mT / self.embedding_scale[:, None]
        return mean(grids, Projection(weight, linear.bias - self.embedding_mean @ weight))


class Linear(Head):
    """A linear map."""

    def __init__(self, width: int, classes: Sequence[str]) -> None:
        super().__init__(width, classes)
        self.output = nn.Linear(width, self.outputs)

    def forward(self, grids: Sequence[FineGrid]) -> Float[Tensor, "b fh fw k"]:
        return self._pooled(grids, self.output)


class Conv(Head):
    """A linear map to a few channels, then convolutions of 3 × 3 output patches, and a linear map; GELUs between."""

    def __init__(self, width: int, classes: Sequence[str], options: ConvHead) -> None:
        super().__init__(width, classes)
        self.input = nn.Linear(width, options.width)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(options.width, options.width, 3, padding=1) for _ in range(options.layers)
        )
        self.output = nn.Linear(options.width, self.outputs)

    def forward(self, grids: Sequence[FineGrid]) -> Float[Tensor, "b fh fw k"]:
        image = rearrange(self._pooled(grids, self.input), "b h w k -> b k h w")
        for convolution in self.convolutions:
            image = convolution(F.gelu(image))
        return self.output(rearrange(F.gelu(image), "b k h w -> b h w k"))


def build_head(options: NoHead | LinearHead | ConvHead, width: int, classes: Sequence[str]) -> Head | None:
    """The head that a config names; None if it names none."""
    if isinstance(options, ConvHead):
        return Conv(width, classes, options)
    return Linear(width, classes) if isinstance(options, LinearHead) else None


def _moments(values: Iterable[Float[Tensor, "_ d"]]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation over all n; 0 and 1 without any, and 1 for what does not vary."""
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for each in values:
        wide = each.double()
        count, total, squares = count + len(wide), total + wide.sum(0), squares + wide.square().sum(0)
    average = total / max(count, 1)
    deviation = (squares / max(count, 1) - average.square()).clamp(min=0).sqrt()
    return average, torch.where(deviation < SMALLEST_SCALE, 1, deviation)
