from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from hybrid_patch.config.field_types import Aside, Count, FolderPath
from hybrid_patch.config.modality import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContinueFrom:
    """The state that a training goes on from: what `continue_from=RUN` stood for when the config was composed."""

    run: Aside[FolderPath]
    """The other run."""
    step: Count
    """Of its newest checkpoint."""
    samples: Annotated[int, Field(ge=1)]
    """Samples that it had drawn by then."""
    checkpoint: str
    """A hash of that checkpoint's files."""
