"""The gradients of a batch, worked out part by part: less memory, the same gradients."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from jaxtyping import Float
from torch import Tensor

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.data.batch import Batch
from hybrid_patch.loss.objective import Share

Forward = Callable[..., dict[str, Tensor]]
Shares = Callable[[Batch, Sequence[Batch], PatchSizes], list[Share]]
Backward = Callable[[Tensor], None]
Held = Callable[[bool], AbstractContextManager[object]]


def backpropagate(
    forward: Forward,
    shares: Shares,
    batch: Batch,
    sizes: PatchSizes,
    parts: int,
    backward: Backward = Tensor.backward,
    held: Held = lambda _: nullcontext(),
) -> dict[str, Float[Tensor, ""]]:
    """Add the gradients of a batch's loss to those of the parameters; the terms of the loss, outside the graph.

    A part's loss is its share of the whole batch's: means are taken over the samples of all parts, and where samples
    are told from one another, from those of all parts. For that the encoder runs over all of them once before, without
    gradients (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").

    Args:
        forward: the objective, in whatever wraps it.
        shares: `Objective.shares`.
        parts: that the samples are cut into; must divide their number.
        backward: the backward pass of a loss.
        held: a context in which gradients are not yet summed over processes, if it is given True.
    """
    if parts == 1:
        terms = forward(batch, sizes)
        backward(terms["loss"])
        return {name: term.detach() for name, term in terms.items()}
    pieces = batch.split(parts)
    total: dict[str, Tensor] = {}
    for number, (piece, share) in enumerate(zip(pieces, shares(batch, pieces, sizes), strict=True), start=1):
        with held(number < parts):
            terms = forward(piece, sizes, share)
            backward(terms["loss"])
        total = {name: term.detach() + total.get(name, 0) for name, term in terms.items()}
    return total
