"""Pretrain Earth-observation transformers on coarse patches for embeddings of every pixel."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_patch.embed.pixel_encoder import PixelEncoder
    from hybrid_patch.embed.trained_model import TrainedModel, load
    from hybrid_patch.report.run_table import load_runs

    __version__: str

__all__ = ["PixelEncoder", "TrainedModel", "__version__", "load", "load_runs"]


def __getattr__(name: str) -> Any:
    """Imports exports at their first use, so that commands check their arguments quickly."""
    if name == "__version__":
        from hybrid_patch.config.command import version

        return version()
    if name == "PixelEncoder":
        from hybrid_patch.embed.pixel_encoder import PixelEncoder

        return PixelEncoder
    if name == "load_runs":
        from hybrid_patch.report.run_table import load_runs

        return load_runs
    if name in __all__:
        from hybrid_patch.embed import trained_model

        return getattr(trained_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
