"""The gradient cache: a batch in microbatches has the loss and the gradients of the whole batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.loss.encoder_objective import EncoderObjective
from hybrid_patch.loss.forward_pass import ForwardPass
from hybrid_patch.loss.objective import Objective
from hybrid_patch.loss.term import CrossSampleTerm, MicrobatchContext


@torch.no_grad()
def microbatch_contexts(
    forward_pass: Callable[[Batch], ForwardPass],
    objective: Objective | EncoderObjective,
    batch: Batch,
    microbatches: Sequence[Batch],
    sizes: PatchSizes,
) -> list[MicrobatchContext]:
    """What each microbatch must know of its batch.

    For terms that compare samples the encoder first runs over all microbatches without gradients (Gao et al. 2021,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
    """
    contexts = objective.batch_context(batch, sizes).split(len(microbatches))
    terms = [term for term in objective.active_terms() if isinstance(term, CrossSampleTerm)]
    vectors: dict[str, list[Tensor]] = {term.name: [] for term in terms}
    for microbatch in microbatches if terms else ():
        passed = forward_pass(microbatch)
        with passed.full_precision():
            assert isinstance(objective, Objective)
            parts = objective.parts(passed, "encoder", terms)
            for term in terms:
                vectors[term.name].append(term.vectors(parts[term.name]))
    for term in terms:
        rows = torch.cat(vectors[term.name]).requires_grad_()
        with torch.enable_grad():
            value = term.compare(rows)
            (gradient,) = torch.autograd.grad(value, rows)
        for context, part in zip(contexts, gradient.chunk(len(contexts)), strict=True):
            context.cached[term.name] = (value.detach() / len(contexts), part)
    return contexts
