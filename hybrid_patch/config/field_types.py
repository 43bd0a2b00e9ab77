"""Types of the schema's fields: ranges of numbers, and the mark of what takes no part in the recipe."""

from typing import Annotated, TypeVar

from pydantic import Field

NOT_IN_RECIPE = object()
T = TypeVar("T")
Aside = Annotated[T, NOT_IN_RECIPE]
"""A value that cannot change a result: a path, a number of workers, a device."""

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
