"""An evaluation in threads: what one thread finds, a stop that ends all of them, and how far the work is."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from building import TINY, trained_run

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.data.source import open_source
from hybrid_patch.embed import threads
from hybrid_patch.embed.threads import mapped_in_threads
from hybrid_patch.embed.trained_model import load
from hybrid_patch.evaluate.evaluation import evaluate
from hybrid_patch.runs.stop_signal import Check, SharedCheck, Stopped, proceed

CPU = torch.device("cpu")
SETTINGS = Evaluation(
    every=0,
    tiles=3,
    train_pixels=600,
    knn_pixels=100,
    few_labels=(2, 30),
    scored_pixels=100,
    seeds=2,
    pooling="mean",
    baselines=("raw", "random", "surroundings", "means", "untrained", "oracle"),
    map_tiles=1,
    pictures=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several scenes to train and to validate on."""
    return trained_run(tmp_path_factory.mktemp("runs") / "run", *TINY, "data.scenes=12")


def evaluated(
    run: Path, pictures: Path, check: Check = proceed, settings: Evaluation = SETTINGS
) -> tuple[dict[str, Any], list[tuple[float, str]]]:
    """The report, and what was shown of the work."""
    model, shown = load(run, "cpu"), list[tuple[float, str]]()
    pictures.mkdir()
    source = open_source(model.config.data)
    report, drawn = evaluate(
        model, source, settings, pictures, check=check, show=lambda done, all_, text: shown.append((done / all_, text))
    )
    assert [path.name for path in drawn] == [f"tile_{number}.png" for number in range(len(drawn))]
    return report, shown


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "thread_count", lambda device: 3)
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.mark.full
def test_threads_find_what_one_finds(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "thread_count", lambda device: 1)
    single, _ = evaluated(run, tmp_path / "one")
    monkeypatch.setattr(threads, "thread_count", lambda device: 3)
    three, _ = evaluated(run, tmp_path / "three")
    assert single == three
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


@pytest.mark.full
def test_what_is_shown_gets_on_to_the_end(run: Path, tmp_path: Path, three_threads: None) -> None:
    _, shown = evaluated(run, tmp_path / "pictures")
    shares = [share for share, _ in shown]
    assert shown[0][1] == "training tile 1"
    assert 0 < shares[0] < 0.1
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    words = [text.split()[0] for _, text in shown]
    assert list(dict.fromkeys(words)) == ["training", "classifiers", "validation", "picture"]


@pytest.mark.full
def test_maps_are_made_for_the_window_ratio_alone(run: Path, tmp_path: Path) -> None:
    few = replace(SETTINGS, baselines=("raw",), pictures=0)
    (with_a_map, _), (without, shown) = (
        evaluated(run, tmp_path / str(tiles), settings=replace(few, map_tiles=tiles)) for tiles in (1, 0)
    )
    assert with_a_map["structure"]["window_ratio"] > 0
    assert without["structure"]["window_ratio"] is None
    assert shown[-1][0] == pytest.approx(1)
    for report in (with_a_map, without):
        del report["settings"], report["structure"]["window_ratio"]
        report["scores"].pop("window_ratio", None)
    assert with_a_map == without


def test_a_stop_ends_all_threads(run: Path, tmp_path: Path, three_threads: None) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 30:
            raise Stopped

    with pytest.raises(Stopped):
        evaluated(run, tmp_path / "pictures", check)
    assert checks == 30  # nothing asked again, and no thread is left at work
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embed")]


def test_results_are_in_order_and_items_are_asked_for_a_few_ahead(three_threads: None) -> None:
    asked: list[int] = []
    others = threading.Barrier(3)

    def items() -> Iterator[int]:
        for number in range(9):
            asked.append(number)
            yield number

    def squared(number: int) -> int:
        others.wait(60)  # three at once
        return number**2

    with mapped_in_threads(CPU) as mapped:
        for number, result in enumerate(mapped(squared, items())):
            assert result == number**2
            assert len(asked) <= number + 4


def test_an_error_in_a_thread_is_raised(three_threads: None) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"), mapped_in_threads(CPU) as mapped:
        list(mapped(fail, range(9)))


def test_what_one_thread_is_told_all_are_told() -> None:
    stop = ValueError("lost")

    def lost() -> None:
        raise stop

    shared = SharedCheck(lost)
    for _ in range(3):
        with pytest.raises(ValueError, match="lost") as caught:
            shared()
        assert caught.value is stop
        shared.check = proceed


def test_a_thread_has_single_threaded_operations(three_threads: None) -> None:
    with mapped_in_threads(CPU) as mapped:
        assert list(mapped(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
