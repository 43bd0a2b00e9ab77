"""Checks across fields; every check gives lines that name a key, its value, and what to try."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hybrid_patch.config.architecture import LOCATION_PATCH, ROTARY, ROTARY_PARTS, require_package
from hybrid_patch.config.curriculum import all_sizes, tile_for
from hybrid_patch.config.field_types import LARGEST
from hybrid_patch.config.masking_options import band_dropout_problems
from hybrid_patch.config.messages import shown
from hybrid_patch.config.schema import Config, Stage, Transformer
from hybrid_patch.config.target_options import LabelTarget, SelfTarget
from hybrid_patch.config.upsamplers import Upsampler, load_class

TERMS = ("decoded", "visible", "instance", "reconstruct", "context")
"""Of the loss."""
LISTED = 20
"""Values that a line suggests, at most."""
ENCODING_PARTS = 16
"""Divides all widths: encodings take quarters, and space splits its quarter in sine and cosine of two axes."""


def problems(config: Config) -> list[str]:
    """One line for everything that does not go together; empty if all is well."""
    return [line for check in _CHECKS for line in check(config)]


def _patch_sizes(config: Config) -> Iterator[str]:
    sizes = (config.patch.processing_patch_size, config.patch.output_patch_size)
    for index, stage in enumerate(config.curriculum.stages):
        same = (stage.processing_patch_size, stage.output_patch_size) == sizes
        yield from _stage(stage, "patch" if same else f"curriculum.stages.{index}", config.data.tile)
    total = math.fsum(stage.share for stage in config.curriculum.stages)
    if abs(total - 1) > 1e-6:
        yield f"curriculum.stages: their shares add up to {total:g}; they must add up to 1"


def _curriculum(config: Config) -> Iterator[str]:
    """Whether a curriculum begins at the processing and ends at the output patch size of `patch`: a fixed one does."""
    patch, stages = config.patch, config.curriculum.stages
    coarse, fine = stages[0].processing_patch_size, stages[-1].output_patch_size
    if (patch.processing_patch_size, patch.output_patch_size) != (coarse, fine):
        yield (
            f"patch={patch.processing_patch_size}→{patch.output_patch_size}: "
            f"curriculum={config.curriculum.name} goes from {coarse} to {fine}; give the same patch sizes in both"
        )


def _stage(stage: Stage, group: str, tile: int) -> Iterator[str]:
    coarse, fine = stage.processing_patch_size, stage.output_patch_size
    coarse_key, fine_key = f"{group}.processing_patch_size", f"{group}.output_patch_size"
    if coarse % fine:
        wrong = "larger than" if fine > coarse else "does not divide"
        yield f"{fine_key}={fine}: {wrong} {coarse_key}={coarse}; try {_listed(_divisors(coarse))}"
    if tile % coarse:
        near = sorted({max(tile // coarse, 1) * coarse, (tile // coarse + 1) * coarse})
        yield f"data.tile={tile}: not divisible by {coarse_key}={coarse}; try {_listed(near)}"


def upsampler_problems(config: Config) -> list[str]:
    """The same of the upsamplers, whose classes are asked, if need be, for the factors they support."""
    encoder, decoder = config.upsampler, config.decoder
    lines = list(_factors("upsampler", encoder, config))
    if decoder.upsampler is None:
        return lines
    key = f"decoder.upsampler={decoder.upsampler.name}"
    if decoder.patch_size == "output":
        lines.append(f"{key}: with decoder.patch_size=output nothing is upsampled; try null")
    if decoder.upsampler.pixel_dropout is not None:
        lines.append(f"{key}: needs pixels, and predictions are made of none; try null or bilinear")
    return [*lines, *_factors("decoder.upsampler", decoder.upsampler, config)]


def _factors(key: str, choice: Upsampler, config: Config) -> Iterator[str]:
    factors = sorted({stage.processing_patch_size // stage.output_patch_size for stage in config.curriculum.stages})
    largest = factors[-1]
    if choice.is_built_in and not set(factors) - {1, largest}:
        return  # a built-in one can be built for any factor
    supports = load_class(choice).supports  # type: ignore[attr-defined]
    able = [factor for factor in _divisors(largest) if supports(factor, largest)]
    for factor in factors:
        if not supports(factor, largest):
            wrong = f"made for the curriculum's largest ratio {largest}, it cannot do its ratio {factor}"
            yield f"{key}={choice.name}: {wrong}; try the ratios {_listed(able)}, or bilinear"


def _model_and_data(config: Config) -> Iterator[str]:
    yield from _transformer(config.model.encoder, "model.encoder")
    yield from _transformer(config.model.decoder, "model.decoder")
    yield from config.data.problems()


def _architecture(config: Config) -> Iterator[str]:
    model = config.model
    if model.architecture == "flexivit":
        return
    require_package(model.architecture)
    unused = {"base_patch_size": None, "pixel_hidden_width": None, "patch_statistics": False, "whiten_bands": False}
    for name, value in unused.items():
        if getattr(model, name) != value:
            key = f"model.{name}={str(getattr(model, name)).lower()}"
            yield f"{key}: an option of model.architecture=flexivit; try {str(value).lower().replace('none', 'null')}"
    if model.architecture != "galileo" and model.encoder.drop_path:
        key = f"model.encoder.drop_path={model.encoder.drop_path:g}"
        yield f"{key}: model.architecture={model.architecture} has none; try 0"
    if model.architecture in ROTARY and model.encoder.width // model.encoder.heads % ROTARY_PARTS:
        key = f"model.encoder.heads={model.encoder.heads}"
        heads = [n for n in _divisors(model.encoder.width) if model.encoder.width // n % ROTARY_PARTS == 0]
        yield f"{key}: the width of a head is not divisible by {ROTARY_PARTS} (rotary encodings); try {_listed(heads)}"
    if model.architecture == "olmoearth_v1_3":
        yield from _locations(config)


def _locations(config: Config) -> Iterator[str]:
    """Of OlmoEarth v1.3, whose patches always have 8 pixels: patch sizes are those of its location tokens."""
    patch = f"the {LOCATION_PATCH} pixels of a patch of OlmoEarth v1.3"
    for sizes in all_sizes(config.curriculum):
        if LOCATION_PATCH % sizes.processing:
            would = _listed(_divisors(LOCATION_PATCH))
            yield f"patch.processing_patch_size={sizes.processing}: does not divide {patch}; try {would}"
        if (tile := tile_for(config, sizes)) % LOCATION_PATCH:
            yield f"data.tile={config.data.tile}: makes crops of {tile} pixels, not multiples of {patch}; try 64"
    target = config.target
    if isinstance(target, SelfTarget) and target.window % LOCATION_PATCH:
        yield f"target.window={target.window}: not a multiple of {patch}; try 16"


def _target(config: Config) -> Iterator[str]:
    if config.model.centre_positions and "encoder" not in config.init.freeze:
        wrong = "the means of places are those of a frozen encoder"
        yield f"model.centre_positions=true: {wrong}; try init.freeze=[encoder], or false"
    target = config.target
    if target.name != "random" and (config.masking.encode_ratio < 1 or config.masking.views > 1):
        key = f"masking.encode_ratio={config.masking.encode_ratio:g}, views={config.masking.views}"
        yield f"{key}: target={target.name} hides nothing; try masking=none"
    if not isinstance(target, SelfTarget):
        return
    yield from _without_terms(config, {"visible"}, "target=self compares visible tokens alone; try 0, or loss=visible")
    if config.loss.target_patch_size == "processing":
        yield "loss.target_patch_size=processing: target=self compares tokens at patch size 1; try output"
    if not config.loss.visible.weight and not target.regression:
        yield "target.regression=0: with loss.visible.weight=0 there is nothing to learn; try 1"
    for stage in config.curriculum.stages:
        if stage.output_patch_size != 1:
            yield f"patch.output_patch_size={stage.output_patch_size}: target=self is at patch size 1; try 1"
        if target.window % stage.processing_patch_size:
            side = stage.processing_patch_size
            yield f"target.window={target.window}: not divisible by the patch size {side}; try {2 * side}"
    if target.window > config.data.tile:
        yield f"target.window={target.window}: larger than data.tile={config.data.tile}; try 16"


def _labels(config: Config) -> Iterator[str]:
    if not isinstance(config.target, LabelTarget):
        if config.head.name != "none":
            yield f"head={config.head.name}: only labels are predicted by a head; try target=labels, or head=none"
        return
    if config.head.name == "none":
        yield "head=none: target=labels needs one; try linear or conv"
    yield from _without_terms(config, set(), "target=labels has a loss of its own; try 0, or loss=none")


def _without_terms(config: Config, allowed: set[str], reason: str) -> Iterator[str]:
    for name in TERMS:
        if name not in allowed and (weight := getattr(config.loss, name).weight):
            yield f"loss.{name}.weight={weight:g}: {reason}"


def _init(config: Config) -> Iterator[str]:
    init = config.init
    if init.parts is not None and init.from_ is None:
        yield f"init.parts={list(init.parts)}: of no weights; give init.from=FOLDER, or null"
    if init.parts == ():
        yield "init.parts=[]: takes nothing; try null, which takes all"
    if "encoder" in init.freeze and "upsampler" in init.freeze and config.head.name == "none":
        yield f"init.freeze={list(init.freeze)}: leaves nothing to train; leave out encoder or upsampler"
    for name, stack in (("encoder", config.model.encoder), ("decoder", config.model.decoder)):
        if name in init.freeze and stack.drop_path:
            yield f"model.{name}.drop_path={stack.drop_path:g}: init.freeze={list(init.freeze)} trains no {name}; try 0"


def _continued(config: Config) -> Iterator[str]:
    begun, steps = config.continue_from, config.trainer.steps
    if begun is not None and steps <= begun.step:
        yield f"trainer.steps={steps}: continue_from={begun.run} has made {begun.step} steps; try {2 * begun.step}"


def _transformer(size: Transformer, key: str) -> Iterator[str]:
    if size.width % ENCODING_PARTS:
        near = [size.width // ENCODING_PARTS * ENCODING_PARTS, (size.width // ENCODING_PARTS + 1) * ENCODING_PARTS]
        would = _listed([width for width in near if width])
        yield f"{key}.width={size.width}: not divisible by {ENCODING_PARTS} (the encodings); try {would}"
    if not 1 <= size.width * size.mlp_ratio <= LARGEST:
        hidden = f"{size.width * size.mlp_ratio:g} numbers in the hidden layer"
        yield f"{key}.mlp_ratio={size.mlp_ratio:g}: makes {hidden} of a block; try 4"
    if size.width % size.heads:
        would = _listed(_divisors(size.width))
        yield f"{key}.heads={size.heads}: does not divide {key}.width={size.width}; try {would}"


def _masking(config: Config) -> Iterator[str]:
    encode, decode = config.masking.encode_ratio, config.masking.decode_ratio
    if encode <= 0:
        yield f"masking.encode_ratio={encode:g}: the encoder would see nothing; try a value above 0"
    if encode + decode > 1 + 1e-9:
        wrong = f"with masking.encode_ratio={encode:g} more than all tokens"
        yield f"masking.decode_ratio={decode:g}: {wrong}; try up to {1 - encode:g}"
    if config.data.modalities:
        yield from band_dropout_problems(config.masking, config.data.modalities)
    if config.masking.name == "time" and config.data.timesteps < 2:
        yield "masking=time: needs timesteps to hide; try data.timesteps=2 or more, or masking=space"


def _loss(config: Config) -> Iterator[str]:
    masking, batch_size = config.masking, config.trainer.batch_size
    weights = {name: getattr(config.loss, name).weight for name in TERMS}
    if not any(weights.values()) and config.target.name == "random":
        yield "loss.decoded.weight=0: no term of the loss has a weight; give one above 0"
    for name in ("decoded", "reconstruct"):
        if weights[name] and not masking.decode_ratio:
            yield f"loss.{name}.weight={weights[name]:g}: needs hidden tokens; try masking.decode_ratio above 0"
    if weights["instance"] and masking.views != 2:
        yield f"masking.views={masking.views}: the instance loss compares two; try 2, or loss.instance.weight=0"
    if weights["instance"] and batch_size < 2:
        needs = "the instance loss needs other samples"
        yield f"trainer.batch_size={batch_size}: {needs}; try 2 or more, or loss.instance.weight=0"


def _backend(config: Config) -> Iterator[str]:
    backend, device = config.loss.backend, config.runtime.device
    wanted = {"flash_cpu": "cpu", "efficient_cuda": "cuda", "flex": "cuda"}.get(backend, device)
    if "auto" not in (wanted, device) and wanted != device:
        yield f"loss.backend={backend}: does not run on runtime.device={device}; try auto or chunked"


def _runtime(config: Config) -> Iterator[str]:
    runtime, batch_size = config.runtime, config.trainer.batch_size
    total = runtime.world_size
    counts = f"runtime.processes={runtime.processes}" + (f", runtime.nodes={runtime.nodes}" * (runtime.nodes > 1))
    if total > 1 and runtime.strategy == "single":
        yield f"runtime.strategy=single: cannot use {counts}; try ddp or fsdp"
    if batch_size % total:
        yield f"trainer.batch_size={batch_size}: not divisible by {counts}; try {(batch_size // total + 1) * total}"
    elif (local := batch_size // total) % runtime.accumulate:
        wrong = f"does not divide the {local} samples of a process"
        yield f"runtime.accumulate={runtime.accumulate}: {wrong}; try {_listed(_divisors(local))}"


def _names(config: Config) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", config.sweep_name):
        yield f"sweep_name={config.sweep_name}: not a plain folder name; try letters, digits, then also _ . -"
    if config.run_dir is not None:
        yield from _new_folder("run_dir", Path(config.run_dir).absolute())


def _new_folder(key: str, path: Path) -> Iterator[str]:
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # or too long
    lengths = {"PC_NAME_MAX": max(map(len, map(os.fsencode, path.parts))), "PC_PATH_MAX": len(os.fsencode(path)) + 1}
    limits = {name: os.pathconf(existing, name) for name in lengths}
    if not str(path.relative_to(existing)).isprintable():
        yield f"{key}={path}: has line breaks or other control characters; give another name"
    elif any(lengths[name] > limits[name] for name in lengths):
        longest = f"{limits['PC_NAME_MAX']} bytes of a file's name"
        yield f"{key}={shown(str(path))}: longer than the {longest} here; give a shorter one"
    elif not existing.is_dir():
        yield f"{key}={path}: {existing} is a file; give a path where a folder can be made"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"{key}={path}: {existing} cannot be written to; give a path where a folder can be made"


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _listed(values: list[int]) -> str:
    """`8`, `4 or 8`, `2, 4 or 8`; of many, the smallest and the largest."""
    first, last = values[:-1][:LISTED], values[-1]
    return f"{', '.join(map(str, first))} or {last}" if first else str(last)


_CHECKS = (
    _patch_sizes,
    _model_and_data,
    _architecture,
    _init,
    _continued,
    _target,
    _labels,
    _masking,
    _loss,
    _backend,
    _runtime,
    _names,
    _curriculum,
)
