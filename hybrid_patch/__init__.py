"""Pretrain Earth-observation transformers on coarse patches for embeddings of every pixel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_patch.embed.trained_model import TrainedModel, load

__all__ = ["TrainedModel", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `TrainedModel`, imported at their first use: commands that check their arguments stay quick."""
    if name in __all__:
        from hybrid_patch.embed import trained_model

        return getattr(trained_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
