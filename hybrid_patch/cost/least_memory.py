"""What a run needs at the least, by its config alone: enough to refuse absurd values before anything is allocated."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hybrid_patch.config.curriculum import all_sizes, tile_for
from hybrid_patch.config.machine import machine_memory
from hybrid_patch.config.modality import Modality
from hybrid_patch.config.schema import Config
from hybrid_patch.cost.formatting import format_bytes
from hybrid_patch.errors import InputError

MOST = 2**50
"""Bytes of a process, more than any machine has."""
PROCESS = 2**25
"""Bytes of a process that loads data, or of one beside the first."""
FP32 = 4
STATES = 4
"""Weights, gradients and AdamW's two moments."""
KEPT = 16
"""Vectors of a token that a block keeps for the backward pass, roughly."""
PIXEL_KEPT = 2
"""Vectors of a pixel that its hidden layer keeps."""
CLOSE = 1 / 2
"""Share of the memory above which, by the rough figure, a step is planned: that imports torch and takes seconds."""


class Need(NamedTuple):
    """Some memory of a run: the values that decide it, what it is for, and its bytes."""

    values: str
    purpose: str
    size: int


def check_planned(config: Config, modalities: Mapping[str, Modality]) -> None:
    """Raises InputError for a run that no machine could hold, or of which this one cannot hold a sample, to plan it."""
    refuse_above(MOST, "no machine has more than", list(needs_of_step(config)))
    refuse_above(machine_memory(), "to plan it, this machine has", [_samples(config, modalities, 1)])


def check_loading(config: Config) -> None:
    """Raises InputError for batches that this machine cannot hold, or more processes than it can."""
    batch = _samples(config, config.data.modalities, config.trainer.batch_size // config.runtime.world_size)
    refuse_above(machine_memory(), "this machine has", [*needs_of_loading(config), batch])


def refuse_above(memory: float | int, has: str, needs: list[Need], processes: int = 1) -> None:
    """Raises InputError that names the largest need if all of them, of each process, exceed the memory."""
    total, largest = processes * sum(need.size for need in needs), max(needs, key=lambda need: need.size)
    if total > memory:
        needed = f"needs at least {format_bytes(total)}, of which {format_bytes(largest.size)} for {largest.purpose}"
        raise InputError(f"{largest.values}: {needed}; {has} {format_bytes(memory)}; try less")


def needs_of_step(config: Config) -> Iterator[Need]:
    """Of a step, in one process."""
    model, world = config.model, config.runtime.world_size
    sharded = world if config.runtime.strategy == "fsdp" else 1
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        weights = part.depth * part.width * (4 * part.width + 2 * int(part.width * part.mlp_ratio))
        values = f"model.{name}.width={part.width}, depth={part.depth}, mlp_ratio={part.mlp_ratio:g}"
        states = "weights, gradients and moments" if name == "encoder" or _decodes(config) else "weights"
        yield Need(values, states, FP32 * (STATES if states != "weights" else 1) * weights // sharded)
    layers = config.loss.instance.layers if config.loss.instance.weight else 0
    size = FP32 * STATES * layers * model.encoder.width**2 // sharded
    yield Need(f"loss.instance.layers={layers}", "the projection of the instance loss", size)
    patches = {sizes.processing for sizes in all_sizes(config.curriculum)}
    base = model.base_patch_size or max(patches)
    inputs = model.pixel_hidden_width or 1
    size = FP32 * STATES * base**2 * inputs * model.encoder.width // sharded
    key = "model.base_patch_size" if model.base_patch_size else "patch.processing_patch_size"
    values = f"{key}={base}" + (f", model.pixel_hidden_width={inputs}" if inputs > 1 else "")
    yield Need(values, "the patch embedding", size + (8 * base**4 if patches != {base} else 0))
    yield _samples(config, config.data.modalities, config.trainer.batch_size // world)


def needs_of_loading(config: Config) -> Iterator[Need]:
    """Of what is around a step, in the machine's memory, for each process."""
    runtime = config.runtime
    yield Need(f"runtime.workers={runtime.workers}", "the processes that load data", PROCESS * runtime.workers)
    if runtime.processes > 1:
        yield Need(f"runtime.processes={runtime.processes}", "the processes", PROCESS)
    for values, size in config.data.least_bytes().items():
        yield Need(values, "the data", size)


def rough_bytes(config: Config) -> int:
    """Bytes that one process may need: within a factor of a few, and rather too many."""
    runtime, samples = config.runtime, config.trainer.batch_size // config.runtime.world_size
    images = [(len(m.band_sets), config.data.timesteps if m.temporal else 1) for m in config.data.modalities.values()]
    depicted = sum(sets * steps for sets, steps in images) or 8 * config.data.timesteps
    activations = 0
    for sizes in all_sizes(config.curriculum):
        cells = (tile_for(config, sizes) // sizes.processing) ** 2 * depicted
        decoded = cells * sizes.factor**2 if config.decoder.patch_size == "output" else cells
        encoder, decoder = config.model.encoder, config.model.decoder
        pixels = tile_for(config, sizes) ** 2 * depicted * (config.model.pixel_hidden_width or 0)
        vectors = cells * encoder.depth * encoder.width + decoded * decoder.depth * decoder.width
        activations = max(activations, KEPT * FP32 * vectors * config.masking.views + FP32 * PIXEL_KEPT * pixels)
    options = [value for key, value in config.upsampler.items() if isinstance(value, int)]
    detail = FP32 * STATES * sum(value * (value + config.model.encoder.width) for value in options)
    return sum(need.size for need in needs_of_step(config)) + samples * activations // runtime.accumulate + detail


def _decodes(config: Config) -> bool:
    """Whether the decoder is trained."""
    return bool(config.loss.decoded.weight or config.loss.reconstruct.weight)


def _samples(config: Config, modalities: Mapping[str, Modality], samples: int) -> Need:
    """The pixels of some samples, and the masks of their tokens."""
    pixels = masks = 0
    for sizes in all_sizes(config.curriculum):
        tile = tile_for(config, sizes)
        area, cells = tile**2, (tile // sizes.processing) ** 2
        images = [(m, config.data.timesteps if m.temporal else 1) for m in modalities.values()]
        pixels = max(pixels, sum(area * steps * FP32 * m.channels for m, steps in images))
        masks = max(masks, sum(cells * steps * len(m.band_sets) for m, steps in images))
    values = f"trainer.batch_size={config.trainer.batch_size}, data.tile={config.data.tile}"
    if config.data.timesteps > config.data.tile:
        values = f"data.timesteps={config.data.timesteps}, {values}"
    if config.masking.views * masks > pixels:
        values = f"masking.views={config.masking.views}, {values}"
    return Need(values, "the pixels and masks of a batch", samples * (pixels + config.masking.views * masks))
