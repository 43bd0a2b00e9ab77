"""Where the config groups are."""

from pathlib import Path

from hybrid_patch.errors import InputError


def conf_folder() -> Path:
    """The folder of the config groups: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(f"{package / 'conf'}: no config.yaml there, nor beside the package; install hybrid_patch again")
