"""Tokens compared with those of a teacher: the encoder itself, at patch size 1."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.config.target_options import SelfTarget
from hybrid_patch.data.batch import Batch, Taught
from hybrid_patch.data.masking import Mask
from hybrid_patch.data.packing import Packing
from hybrid_patch.loss.all_gather import global_sum
from hybrid_patch.loss.encoder_objective import EncoderObjective
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.patch_discrimination import patch_discrimination
from hybrid_patch.loss.queries import all_queries
from hybrid_patch.loss.targets import TargetKeys
from hybrid_patch.loss.term import MicrobatchContext, mean_of_modalities
from hybrid_patch.model.tokens import DenseTokens


class SelfDistillation(EncoderObjective):
    """The terms of `target=self`: the encoder's fine tokens against the teacher's, in a narrow space.

    That is `z = (t - m) W`, the first principal components of the teacher's tokens, scaled so that the mean square of
    z is about 1: with `visible` a token must find its own target among those of its window (cosine similarities), and
    with `regression` be equal to it. What the components leave out stays as the upsampler's interpolation has it.
    """

    def __init__(self, config: Config, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        assert isinstance(config.target, SelfTarget)
        self.modalities, self.loss = dict(modalities), config.loss
        self.weights = {"visible": config.loss.visible.weight, "regression": config.target.regression}
        width = config.model.encoder.width
        for name in (name for name, modality in modalities.items() if not modality.decode_only):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_projection", torch.zeros(width, min(config.target.numbers, width)))

    def set_projection(self, name: str, mean: Float[Tensor, " d"], projection: Float[Tensor, "d k"]) -> None:
        """The space in which tokens of a modality are compared."""
        self.get_buffer(f"{name}_mean").copy_(mean)
        self.get_buffer(f"{name}_projection").copy_(projection)

    def token_means(self) -> dict[str, Float[Tensor, " d"]]:
        """The mean tokens of modalities, as the teacher has them."""
        return {name: self.get_buffer(f"{name}_mean") for name in self.modalities if hasattr(self, f"{name}_mean")}

    def batch_context(self, batch: Batch, sizes: PatchSizes) -> MicrobatchContext:
        """What all microbatches of a batch must know of it: how many samples have something to compare."""
        counts = [self._cells(name, batch, sizes)[1].flatten(1).any(1).sum() for name in self._taught(batch).numbers]
        return MicrobatchContext({"encoder": global_sum(torch.stack(counts).float())}, {}, {})

    def forward(self, passed: ForwardPass, context: MicrobatchContext | None = None) -> dict[str, Float[Tensor, ""]]:
        """The terms by name, unweighted, and `loss`, their weighted sum; in a microbatch, its share of them."""
        batch = passed.batch
        terms: dict[str, list[Tensor]] = {name: [] for name, weight in self.weights.items() if weight > 0}
        with passed.full_precision():
            context = context or self.batch_context(batch, passed.sizes)
            for name, numbers in self._taught(batch).numbers.items():
                cells, mask = self._cells(name, batch, passed.sizes)
                queries = all_queries(cells, passed.sizes.factor)
                fine = passed.tokens("encoder", {name: queries})[name].float()
                projection = self.get_buffer(f"{name}_projection")
                predicted = fine.transform(projection, -self.get_buffer(f"{name}_mean") @ projection).dense()
                pattern = "b (i u) (j v) t s k -> b (i j t s) (u v) k"
                side = passed.sizes.processing
                taught = rearrange(numbers.to(predicted.dtype), pattern, u=side, v=side)
                if "visible" in terms:
                    keys = TargetKeys(None, F.normalize(taught, dim=-1), None)
                    temperature, backend, chunk = self.loss.visible.temperature, self.loss.backend, self.loss.chunk
                    tokens = DenseTokens(predicted)
                    terms["visible"].append(
                        patch_discrimination(tokens, keys, mask, queries, temperature, None, backend, chunk)
                    )
                if "regression" in terms:
                    terms["regression"].append(queries.mean((predicted - taught).square().mean(-1), mask))
            values = {name: mean_of_modalities(each, context.counts["encoder"]) for name, each in terms.items()}
            loss = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return {"loss": loss, **values}

    def _cells(self, name: str, batch: Batch, sizes: PatchSizes) -> tuple[Packing, Bool[Tensor, "b n p"]]:
        """The coarse cells of each sample's window, and where a pixel has a token and a target."""
        taught, mask = self._taught(batch), batch.masks[name]
        side = taught.numbers[name].shape[1] // sizes.processing
        _, _, w, t, s = mask.shape
        corner = taught.corner // sizes.processing
        step = torch.arange(side, device=mask.device)
        rows, columns = corner[:, :1] + step, corner[:, 1:] + step
        locations = (rows[:, :, None] * w + columns[:, None]).flatten(1)
        index = (locations[:, :, None] * (t * s) + torch.arange(t * s, device=mask.device)).flatten(1)
        cells = Packing(index, None, mask[0].numel())
        encoded = cells.gather((mask == Mask.ENCODE).flatten(1))
        return cells, batch.valid_patches(name, cells, sizes.output) & encoded[..., None]

    def _taught(self, batch: Batch) -> Taught:
        assert batch.taught is not None
        return batch.taught
