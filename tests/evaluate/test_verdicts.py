"""Which baselines are beaten."""

from hybrid_patch.evaluate.verdicts import in_words, of_all, verdicts


def test_only_an_interval_above_zero_beats_and_only_in_every_run() -> None:
    def above(low: float) -> dict[str, dict[str, dict[str, float]]]:
        return {"linear": {"all": {"low": low}}}

    first = verdicts({"raw": above(0.01), "surroundings": above(-0.01)}, "linear")
    assert first == {"raw": True, "surroundings": False}
    assert in_words(first) == "beats raw · not surroundings"
    assert verdicts({"raw": above(0.01)}, "knn") == {}
    assert of_all([first, {"raw": False, "surroundings": True}]) == {"raw": False, "surroundings": False}
    assert in_words({"raw": True}) == "beats raw"
    assert in_words({"raw": False}) == "does not beat raw"
    assert in_words({}) == ""
