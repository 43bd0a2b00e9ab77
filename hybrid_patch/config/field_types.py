"""Types of the schema's fields: ranges of numbers, names, and the mark of what takes no part in the recipe."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

NOT_IN_RECIPE = object()
T = TypeVar("T")
Aside = Annotated[T, NOT_IN_RECIPE]
"""A value that cannot change a result: a path, a number of workers, a device."""

LARGEST = 2**31 - 1
"""Libraries hold numbers of things in 32 bits."""
LONGEST_NAME = 255
"""Bytes of a file's name, on nearly all file systems."""


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("empty; give a value")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has line breaks or other control characters; leave them out")
    return value


def _short(value: str) -> str:
    if len(value.encode(errors="replace")) > LONGEST_NAME:
        raise ValueError(f"longer than {LONGEST_NAME} bytes; give a shorter one")
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[Line, AfterValidator(_not_empty), AfterValidator(_short)]
FolderPath = Annotated[str, AfterValidator(_not_empty)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Amount = Annotated[int, Field(ge=0, le=LARGEST)]
Code = Annotated[int, Field(ge=-LARGEST, le=2**32 - 1)]
"""A value of a raster of whole numbers."""
Depth = Annotated[int, Field(ge=1, le=10_000)]
"""Layers on top of each other: ten times those of the deepest networks that were trained."""
Width = Annotated[int, Field(ge=1, le=2**20)]
"""Numbers of a vector: a square matrix of the largest takes 4 TiB."""
PROCESSORS = 4096
"""More than the largest machines have."""
PerMachine = Annotated[int, Field(ge=1, le=PROCESSORS)]
"""Processes or threads of a machine."""
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
