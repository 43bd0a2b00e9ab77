"""The gradient cache: a batch in microbatches has the loss and the gradients of the whole batch.

Means are over the samples of all microbatches, and terms that compare samples compare those of all. For that the
encoder runs over all of them once before, without gradients (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup").
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.data.batch import Batch
from hybrid_patch.loss.all_gather import global_sum
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.objective import Objective
from hybrid_patch.loss.term import CrossSampleTerm, MicrobatchContext, Source


@torch.no_grad()
def microbatch_contexts(
    forward_pass: Callable[[Batch], ForwardPass],
    objective: Objective,
    batch: Batch,
    microbatches: Sequence[Batch],
    output: int,
) -> list[MicrobatchContext]:
    """What each microbatch must know of its batch.

    Args:
        forward_pass: of the model over a microbatch.
        output: the output patch size.
    """
    counts: dict[Source, Tensor] = {"encoder": _counts(batch, "encoder", output)}
    counts["decoder"] = _counts(batch, "decoder", output)
    cached: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in microbatches]
    for name, vectors in _vectors(forward_pass, objective, microbatches).items():
        term = objective.terms[name]
        assert isinstance(term, CrossSampleTerm)
        with torch.enable_grad():
            value = term.compare(vectors.requires_grad_())
            (gradient,) = torch.autograd.grad(value, vectors)
        share = (value / len(microbatches)).detach()
        for entry, rows in zip(cached, gradient.chunk(len(microbatches)), strict=True):
            entry[name] = (share, rows)
    return [MicrobatchContext(counts, entry) for entry in cached]


def _counts(batch: Batch, source: Source, output: int) -> Float[Tensor, " modalities"]:
    """How many samples and views have a valid output patch among a source's tokens: of each modality."""
    tokens = batch.encoded if source == "encoder" else batch.decoded
    counts = [
        batch.valid_patches(name, packing, output).flatten(1).any(1).sum() for name, packing in tokens.each.items()
    ]
    return global_sum(torch.stack(counts).float())


def _vectors(
    forward_pass: Callable[[Batch], ForwardPass], objective: Objective, microbatches: Sequence[Batch]
) -> dict[str, Tensor]:
    """The vectors of all samples, of each term that compares samples."""
    terms = [term for term in objective.active_terms() if isinstance(term, CrossSampleTerm)]
    if not terms:
        return {}
    vectors: dict[str, list[Tensor]] = {term.name: [] for term in terms}
    for microbatch in microbatches:
        passed = forward_pass(microbatch)
        parts = objective.encoder_parts(passed, terms)
        with passed.full_precision():
            for term in terms:
                vectors[term.name].append(term.vectors(parts[term.name]))
    return {name: torch.cat(rows) for name, rows in vectors.items()}
