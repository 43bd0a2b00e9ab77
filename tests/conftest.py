"""Shape annotations are checked at run time in the tests (jaxtyping with beartype), and only there."""

from jaxtyping import install_import_hook

hook = install_import_hook(["hybrid_patch"], "beartype.beartype")

import signal  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("shared machine", deadline=None, max_examples=40)
settings.load_profile("shared machine")

# A script that puts the tests into the background has them ignore Ctrl-C, and so what they start, where it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


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
