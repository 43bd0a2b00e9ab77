"""The benchmark of embedding a scene."""

import pytest
from building import TINY

from hybrid_patch.config.options import parse
from hybrid_patch.cost.map_benchmark import MapBenchmarkOptions, measure, tables
from hybrid_patch.errors import InputError

OVERRIDES = [word for word in TINY if word not in ("logger=none", "evaluation=none", "data.scenes=4")]


@pytest.mark.full
def test_variants_are_compared() -> None:
    plan = parse(
        MapBenchmarkOptions, ["size=40", "rounds=1", "variants=[ps8,ps8:patch,hybrid]", "band_sets=3", *OVERRIDES]
    )
    report = measure(plan)
    assert list(report["variants"]) == ["ps8", "ps8:patch", "hybrid"]
    assert report["ratios"]["hybrid/ps8"]["median"] > 0
    assert all(row["pixels_per_second"] > 0 for row in report["variants"].values())
    assert tables(report)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("variants=[ps9]", "variants=.*unknown ps9"),
        ("size=big", "size=big: must be a whole number"),
        ("band_sets=2", "must be '1' or '3'"),
        ("--fast", "no such flag"),
    ],
)
def test_bad_arguments(argument: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(MapBenchmarkOptions, [argument])
