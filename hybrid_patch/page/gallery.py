"""The same tiles by several members, in the same colours, and what a linear probe makes of each."""

from typing import NamedTuple


class Gallery(NamedTuple):
    """Pictures for the page.

    Attributes:
        tiles: each with a `name` and `rows` of panels: `caption` and `src`.
        classes: names and colours of the labels' classes.
        note: how they were made, or why there are none.
    """

    tiles: list[dict[str, object]]
    classes: list[tuple[str, str]]
    note: str
