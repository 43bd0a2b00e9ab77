"""The encoders that a model can have, and the packages that they come from."""

from typing import Literal

from hybrid_patch.errors import require_extra

OlmoEarth = Literal["olmoearth_v1", "olmoearth_v1_1", "olmoearth_v1_2", "olmoearth_v1_3"]
Released = Literal["galileo", OlmoEarth]
Architecture = Literal["flexivit", Released]
ROTARY, ROTARY_PARTS = ("olmoearth_v1_2", "olmoearth_v1_3"), 4
"""Those with rotary encodings, and what divides the width of their heads."""
LOCATION_PATCH = 8
"""The side of the patches behind the location tokens of OlmoEarth v1.3, in pixels."""


def require_package(architecture: str) -> None:
    """Raises InputError that names the extra, if an architecture's package is not installed."""
    if architecture.startswith("olmoearth"):
        require_extra("olmoearth-model", "olmoearth_pretrain_minimal")
