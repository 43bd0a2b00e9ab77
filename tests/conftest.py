"""Shape annotations are checked at run time in the tests (jaxtyping with beartype), and only there."""

from jaxtyping import install_import_hook

hook = install_import_hook(["hybrid_patch"], "beartype.beartype")

import signal  # noqa: E402
from collections import defaultdict  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("quick", deadline=None, max_examples=10)
settings.register_profile("whole", deadline=None, max_examples=40)
settings.load_profile("quick")

# A script that puts the tests into the background has them ignore Ctrl-C, and so what they start, where it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)  # before marks select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `full` the cases of a test that are not in its `sample(n)`: all but n of them, evenly spread."""
    sampled: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            sampled[item.nodeid.partition("[")[0]].append(item)
    for cases in sampled.values():
        mark = cases[0].get_closest_marker("sample")
        assert mark is not None
        chosen = {len(cases) * number // mark.args[0] for number in range(mark.args[0])}
        for number, item in enumerate(cases):
            if number not in chosen:
                item.add_marker("full")


def beside_the_checkout(name: str) -> Path:
    """A folder in `../shared`; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no ../shared/{name} beside the checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test is skipped where there is none."""
    return beside_the_checkout("data")


@pytest.fixture(scope="session")
def released_galileo() -> Path:
    """The folder of Galileo nano's released weights beside the checkout; the test is skipped where there is none."""
    return beside_the_checkout("galileo_nano")
