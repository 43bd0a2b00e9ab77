"""Where configs are read from."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hybrid_patch.errors import InputError


def conf_folder() -> Path:
    """The folder of the config groups: in the installed package, or beside it in a checkout. Raises InputError."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise InputError(f"{package / 'conf'}: no config.yaml there, nor beside the package; install hybrid_patch again")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The folder of the groups, the primary config's name, and one more folder."""

    folder: Path = field(default_factory=conf_folder)
    name: str = "config"
    extra: Path | None = None

    @cache  # noqa: B019  # a few small values, for a command's lifetime
    def groups(self) -> dict[str, list[str]]:
        """The options of each group, by the group's path (`patch`, `modality`, ...)."""
        options: dict[str, set[str]] = {}
        for folder in filter(None, (self.folder, self.extra)):
            for file in folder.glob("*/**/*.yaml"):
                options.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
        return {group: sorted(names) for group, names in options.items()}


def chosen_sources(
    config_path: Path | None = None, config_name: str | None = None, config_dir: Path | None = None
) -> Sources:
    """The sources that flags choose. Raises InputError for a folder that does not exist."""
    for flag, folder in (("--config-path", config_path), ("--config-dir", config_dir)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{flag}={folder.resolve()}: there is no such folder")
    folder = conf_folder() if config_path is None else config_path.resolve()
    extra = None if config_dir is None else config_dir.resolve()
    return Sources(folder=folder, name=config_name or "config", extra=extra)
