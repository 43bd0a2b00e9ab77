"""What the package calls the versions of OlmoEarth, and what its released weights are named."""

import logging
from collections.abc import Mapping
from typing import Any

from olmoearth_pretrain_minimal.olmoearth_pretrain_v1 import olmoearth_pretrain_v1 as releases
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import AttentionPoolerConfig, EncoderConfig
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.tokenization import ModalityTokenization, TokenizationConfig

from hybrid_patch.config import schema
from hybrid_patch.config.architecture import OlmoEarth
from hybrid_patch.model.olmoearth.weights import INPUTS

BASE = 8
"""The side of its kernels."""
HIDDEN = 64
"""Numbers of a pixel's hidden layer, at widths that were not released."""

TOLD = (
    *("position_encoding", "num_heads", "rope_base", "rope_coordinate_scale"),
    *("temporal_rope_dim_frac", "rope_temporal_base", "rope_temporal_coordinate_scale"),
)
"""Settings that no weight's shape tells."""

logging.getLogger("olmoearth_pretrain_minimal").setLevel(logging.WARNING)  # below it, it logs all of its settings


def network_config(architecture: OlmoEarth, size: schema.Transformer) -> EncoderConfig:
    """What the package calls a version, at any size, without what is random in a training (drop path, band dropout)."""
    settings: dict[str, Any] = {}
    if architecture != "olmoearth_v1":
        groups = releases.V1_1_BAND_GROUPS
        hidden = {
            releases.MODEL_SIZE_CONFIGS[f"{name}_shallow_decoder"]["encoder_embedding_size"]: numbers
            for name, numbers in releases.V1_2_PATCH_EMBED_HIDDEN_SIZES.items()
        }
        settings |= {
            "tokenization_config": TokenizationConfig({name: ModalityTokenization(g) for name, g in groups.items()}),
            "use_linear_patch_embed": True,
            "patch_embed_hidden_sizes": hidden.get(size.width, [HIDDEN]),
        }
    if architecture in ("olmoearth_v1_2", "olmoearth_v1_3"):
        settings |= {
            "position_encoding": releases.V1_2_POS_ENCODING,
            "rope_mixed_base": releases.V1_2_ROPE_MIXED_BASE,
            "rope_temporal_coordinate_scale": releases.V1_2_ROPE_TEMPORAL_COORDINATE_SCALE,
        }
    if architecture == "olmoearth_v1_3":
        settings["attention_pooler_config"] = AttentionPoolerConfig(
            pooler_dim=size.width,
            pooler_depth=releases.V1_3_ATTENTION_POOLER_DEPTH,
            per_depth_read_proj=True,
            attn_dim=size.width,
        )
    return EncoderConfig(
        supported_modality_names=list(INPUTS),
        embedding_size=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        max_patch_size=BASE,
        drop_path=0.0,
        **settings,
    )


def difference(config: EncoderConfig, settings: Mapping[str, Any]) -> str | None:
    """What the settings beside released weights have otherwise, of that which no weight's shape tells."""
    told = {name: settings[name] for name in (*TOLD, "spatial_pos_encoding") if name in settings}
    given = EncoderConfig(supported_modality_names=[], **told)
    for name in TOLD:
        before, now = getattr(given, name), getattr(config, name)
        if before != now:
            return f"{name} is {before} in its config.json, {now} here"
    return None
