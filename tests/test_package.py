"""The wheel works without the checkout: it holds the configs, and the training command composes them from there."""

import os
import re
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, folder: Path) -> str:
    """The standard output of a command that runs in `folder` and must succeed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_below(folder: Path) -> dict[str, bytes]:
    """Content by path relative to the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the tools that are installed here, so without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", folder, ROOT, folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds the wheel, and finds what the wheel depends on where the tests do.

    The tests' own packages come as a line of a .pth file: such a folder's own .pth files are not read, so the editable
    install of the checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    path = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", path, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, wheel, folder=folder)
    installed = Path(run(path, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (installed / "lent.pth").write_text("".join(f"{name}\n" for name in sorted(lent)))
    return path


def test_wheel_holds_the_configs_of_the_checkout(wheel: Path) -> None:
    prefix = "hybrid_patch/conf/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
        packed = {name.removeprefix(prefix): archive.read(name) for name in names}
    assert "config.yaml" in packed
    assert packed == files_below(ROOT / "conf")


def test_wheel_holds_every_module_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.endswith((".py", "py.typed"))}
    packages = [ROOT / "hybrid_patch", ROOT / "launch"]
    expected = {path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py")}
    assert names == expected | {"hybrid_patch/py.typed"}


def test_training_composes_from_the_wheels_own_configs(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import hybrid_patch; print(hybrid_patch.__file__)", folder=tmp_path).strip()
    package = Path(where).parent
    assert ROOT not in package.parents

    # A seed that stands nowhere but in the installed copy shows which of the two was read.
    config = package / "conf" / "config.yaml"
    text, changed = re.subn(r"(?m)^seed:.*$", "seed: 424242", config.read_text())
    assert changed == 1
    config.write_text(text)

    composed = run(python, "-m", "hybrid_patch.train", "--cfg", "job", folder=tmp_path)
    assert re.search(r"(?m)^seed: 424242$", composed)
    assert str(ROOT) not in composed
    assert list(tmp_path.iterdir()) == []
