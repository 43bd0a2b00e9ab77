"""The wheel works without the checkout: it holds the configs, and the training command composes them from there."""

import os
import re
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


# --- without extras ---------------------------------------------------------------------------------------------------


def required(*roots: str) -> dict[str, metadata.Distribution]:
    """The distributions that requirements need, without extras that nobody names, by canonical name."""
    needed: dict[str, metadata.Distribution] = {}
    pending = [Requirement(root) for root in roots]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        distribution = needed.setdefault(name, metadata.distribution(name))
        for line in distribution.requires or []:
            nested = Requirement(line)
            extras = requirement.extras or {""}
            wanted = nested.marker is None or any(nested.marker.evaluate({"extra": extra}) for extra in extras)
            if wanted and (canonicalize_name(nested.name) not in needed or nested.extras):
                pending.append(nested)
    return needed


def core_requirements(wheel: Path) -> list[str]:
    """What the wheel requires without an extra."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    required_lines = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [line for line in required_lines if "extra ==" not in line]


@pytest.fixture(scope="module")
def lean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what it requires without extras, and nothing else."""
    folder = tmp_path_factory.mktemp("lean")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel),
        folder=folder,
    )
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    for distribution in required(*core_requirements(wheel)).values():
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "bin", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    return python


def failed(python: Path, *words: str | Path, folder: Path) -> str:
    """The one line on standard error of a command that ends with exit code 2."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_the_core_is_lean(wheel: Path) -> None:
    core = required(*core_requirements(wheel)).keys() - required("torch").keys()
    assert len(core) <= 60, sorted(core)


@pytest.mark.full
def test_the_core_trains_and_embeds_and_names_the_extras_it_lacks(lean: Path, tmp_path: Path) -> None:
    tiny = ["model=nano", "data.scenes=4", "data.scene_size=32", "data.tile=16", "data.timesteps=1"]
    words = [*tiny, "trainer.steps=2", "trainer.batch_size=2", "run_dir=run"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [lean, "-m", "hybrid_patch", "train", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'hybrid_patch[eval]'" in done.stdout + done.stderr
    embed = (
        "import hybrid_patch, numpy\n"
        "image = numpy.random.default_rng(0).uniform(0, 3000, (20, 24, 1, 12)).astype('float32')\n"
        "model = hybrid_patch.load('run')\n"
        "print(model.embed({'sentinel2_l2a': image}, dates=['2024-05-31']).shape)\n"
    )
    assert run(lean, "-c", embed, folder=tmp_path).strip() == "(20, 24, 128)"
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "sample_metadata.csv").touch()
    for extra, command in {
        "report": ["report", "run"],
        "eval": ["evaluate", "run=run"],
        "geo": ["train", "data=rasters", "data.root=tiles"],
        "olmoearth": ["train", "data=olmoearth", "data.root=tiles"],
    }.items():
        assert f"pip install 'hybrid_patch[{extra}]'" in failed(lean, "-m", "hybrid_patch", *command, folder=tmp_path)
