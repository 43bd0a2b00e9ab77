"""The weights that are released, without the package that they are for."""

import re
from collections.abc import Mapping

from torch import Tensor

INPUTS = ("sentinel2_l2a", "sentinel1", "landsat")
"""What the released encoders were trained to read; the package's other modalities were targets alone."""
UNUSED = re.compile(r"project_and_aggregate\.|attention_pooler\.student\.|composite_encodings\.pos_embed$")
"""Weights for losses, and a table that is computed now."""
OF_MODALITY = re.compile(r"(?:per_modality_embeddings|per_modality_channel_embeddings)\.(\w+)")


def released_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an encoder's `network` from the state that is released as `weights.pth`."""
    result = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        modality = OF_MODALITY.search(rest)
        if part == "encoder" and not UNUSED.match(rest) and (modality is None or modality[1] in INPUTS):
            result[rest] = tensor
    return result
