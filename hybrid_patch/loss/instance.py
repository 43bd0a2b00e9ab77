"""Instance contrast: two maskings of one sample are closer to each other than to other samples."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hybrid_patch.distributed import first_row, gather_rows


def instance_contrast(
    first: Float[Tensor, "b d"], second: Float[Tensor, "b d"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (van den Oord et al. 2018) between the pooled vectors of two views of a batch.

    The other samples are those of all processes, so that the loss does not depend on how a batch is shared out.
    """
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    label = torch.arange(len(a), device=a.device) + first_row(a)
    return (
        F.cross_entropy(a @ gather_rows(b).mT / temperature, label)
        + F.cross_entropy(b @ gather_rows(a).mT / temperature, label)
    ) / 2
