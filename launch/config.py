"""Where members run: the schema of `conf/launch.yaml` and `conf/cluster/`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from hybrid_patch.config.compose import composed, held_to
from hybrid_patch.config.field_types import Amount, Count, Line, Name, PerMachine
from hybrid_patch.config.modality import STRICT
from hybrid_patch.config.overrides import hydra_overrides, key_of
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError


def _size(text: str) -> str:
    if not re.fullmatch(r"plan|\d{1,18}[KMGTkmgt]?[Bb]?", text):
        raise ValueError("not a size as sbatch takes it; write 16G, or plan")
    return text


def _given(text: str) -> str:
    if not text:
        raise ValueError("empty; give a value, or null")
    return text


# A number or a boolean as it was typed: the command line cannot tell `time=60` from a text.
Text = Annotated[Line, BeforeValidator(lambda value: json.dumps(value) if isinstance(value, int | float) else value)]
Time = Annotated[Text, Field(pattern=r"^(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})$")]
Memory = Annotated[Text, AfterValidator(_size)]
Given = Annotated[Line, AfterValidator(_given)]
Mount = Annotated[Line, Field(pattern=r"^/[^,:]*$")]
Gpus = Annotated[Text, Field(pattern=r"^([\w.-]+:)?\d+$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Retries:
    """How often a member is restarted within a submission, by what ended it."""

    preempted: Amount
    lost: Amount
    killed: Amount
    error: Amount
    out_of_memory: Amount
    disk_full: Amount

    def of(self, cause: str) -> int:
        """The retries of a cause as the run's directory names it; none for any other."""
        return getattr(self, cause.replace(" ", "_"), 0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Cluster:
    dirty: Literal["patch", "refuse"]
    device: str | None
    retries: Retries

    @property
    def needs_plan(self) -> bool:
        """Whether jobs request the planned memory of their members."""
        return getattr(self, "memory", None) == "plan"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Local(_Cluster):
    name: Literal["local"]
    slots: PerMachine | None
    threads: PerMachine | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Slurm(_Cluster):
    name: Literal["slurm"]
    partition: Name | None
    account: Name | None
    qos: Name | None
    time: Time | None
    nodes: Count | None
    gpus_per_node: Gpus | None
    cpus: PerMachine | None
    memory: Memory | None
    constraint: Name | None
    parallel: Count | None
    pack: PerMachine
    signal_seconds: Annotated[int, Field(ge=1, le=65535)]
    extra: dict[Name, Text]
    setup: tuple[str, ...]
    python: Given | None
    container: Given | None
    apptainer: Given | None
    mounts: tuple[Mount, ...]


Cluster = Annotated[Local | Slurm, Field(discriminator="name")]
CLUSTER: TypeAdapter[Cluster] = TypeAdapter(Cluster)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Launch:
    cluster: Cluster


def read_cluster(words: Sequence[str], extra: Path | None = None, before: Cluster | None = None) -> Cluster:
    """The cluster of `cluster=...`, else `before` or the default, with the values given; `extra` is one more folder of
    config groups. Raises InputError."""
    sources = Sources(name="launch", extra=extra)
    changed = None if "cluster" in map(key_of, words) else before
    overrides = words if changed is None else [f"cluster={changed.name}", *words]
    config = composed(hydra_overrides(overrides, sources), sources)
    if changed is not None:
        values = {key: OmegaConf.select(config, key) for key in map(key_of, words) if key.startswith("cluster.")}
        config.cluster = CLUSTER.dump_python(changed, mode="json")
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    cluster = held_to(Launch, {str(key): value for key, value in plain.items()}, sources).cluster
    if isinstance(cluster, Slurm) and cluster.container and cluster.apptainer:
        raise InputError(f"cluster.apptainer={cluster.apptainer}: cluster.container is given too; leave one out")
    if isinstance(cluster, Slurm) and cluster.time and seconds(cluster.time) <= cluster.signal_seconds:
        key = f"cluster.time={cluster.time}: is not longer than cluster.signal_seconds={cluster.signal_seconds}"
        raise InputError(f"{key}, when members are asked to save and end; try a longer time, or fewer seconds")
    return cluster


def seconds(time: str) -> int:
    """The seconds of a time as sbatch takes it: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (60, 1) if not dash and len(parts) < 3 else (3600, 60, 1)
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))
