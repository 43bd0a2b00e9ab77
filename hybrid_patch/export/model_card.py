"""The card of an exported model: what it is, what it takes, what it was trained on, scores and cost."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from torch import nn

from hybrid_patch.config.modality import Modality
from hybrid_patch.config.target_options import LabelTarget
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.runs.directory import RunDirectory
from hybrid_patch.runs.records import DamagedFileError


def model_card(model: TrainedModel, run: RunDirectory, license_name: str) -> str:
    """The text of `README.md`, with the front matter that a hub reads."""
    return "\n".join(
        [*_front_matter(license_name), *_model(model), *_inputs(model), *_training(model, run), *_scores(run)]
    )


def _front_matter(license_name: str) -> Iterator[str]:
    yield from (
        "---",
        f"license: {license_name}",
        "library_name: hybrid_patch",
        "tags:",
        "- earth-observation",
        "---",
        "",
    )


def _model(model: TrainedModel) -> Iterator[str]:
    sizes, size = model.sizes, model.config.model.encoder
    parts: dict[str, nn.Module] = {"encoder": model.network.encoder, "upsampler": model.network.encoder_upsampler}
    if (head := model.network.head) is not None:
        parts["head"] = head
    numbers = ", ".join(f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in parts.items())
    yield f"# {model.config.model.name}, {sizes.processing}→{sizes.output}"
    yield ""
    yield (
        f"An encoder of Earth-observation images ({model.config.model.architecture}, width {size.width}, {size.depth} "
        f"blocks) on patches of {sizes.processing} pixels, and an upsampler (`{model.config.upsampler.name}`) to an "
        f"embedding for every {'pixel' if sizes.output == 1 else f'{sizes.output} × {sizes.output} pixels'}. "
        f"Parameters: {numbers}."
    )
    yield ""
    yield "```python"
    yield "import hybrid_patch"
    yield ""
    yield 'model = hybrid_patch.load("FOLDER")'
    dates = ', dates=["2024-05-31"]' if any(model.modalities[name].temporal for name in model.inputs) else ""
    yield f'embedding = model.embed({{"{model.inputs[0]}": image}}{dates})  # [H, W, T, bands] → [H, W, {size.width}]'
    if head is not None:
        answer = f"probabilities of {len(head.classes)} classes" if head.classes else "a number for every pixel"
        yield f'predicted = model.predict({{"{model.inputs[0]}": image}}{dates})  # {answer}: [H, W, {head.outputs}]'
    yield "```"
    yield ""
    if head is not None and head.classes:
        yield f"Classes: {', '.join(head.classes)}."
        yield ""


def _inputs(model: TrainedModel) -> Iterator[str]:
    yield "## Inputs"
    yield ""
    yield "Values in the units of the statistics (mean ± standard deviation); any modality may be left out."
    yield ""
    yield "| modality | pixels | bands |"
    yield "|---|---|---|"
    for name in model.inputs:
        modality = model.modalities[name]
        yield f"| {name} | {modality.gsd:g} m, {'series' if modality.temporal else 'one image'} | {_bands(modality)} |"
    yield ""


def _bands(modality: Modality) -> str:
    mean, std = modality.mean or (), modality.std or ()
    return ", ".join(f"{b} {m:.4g} ± {s:.4g}" for b, m, s in zip(modality.bands, mean, std, strict=True))


def _training(model: TrainedModel, run: RunDirectory) -> Iterator[str]:
    identity, config = run.identity(), model.config
    data: Mapping[str, Any] = identity.get("data", {})
    init = identity["recipe"]["init"]["fingerprint"]
    seconds = [row["step_seconds"] for row in run.metrics() if row.get("step_seconds")]
    yield "## Training"
    yield ""
    yield f"- Data: `{config.data.name}`, fingerprint `{identity['recipe']['data']['fingerprint']}`" + (
        f", {data['samples'].get('train', 0)} training samples." if "samples" in data else "."
    )
    made = f"{model.step:,} steps of {config.trainer.batch_size} samples"
    yield f"- {made}, target `{config.target.name}`, seed {config.seed}."
    if isinstance(config.target, LabelTarget):
        yield f"- Learned from {config.target.fraction:.3g} of the labels, by {config.target.fraction_of}."
    if init is not None:
        frozen = f", frozen: {', '.join(config.init.freeze)}" if config.init.freeze else ""
        yield f"- Began with the weights of hash `{init}`{frozen}."
    if seconds:
        yield f"- A step took {median(seconds):.2g} s (median), {config.runtime.device}, {config.runtime.precision}."
    yield f"- Recipe `{identity['recipe_hash'][:16]}`."
    yield ""


def _scores(run: RunDirectory) -> Iterator[str]:
    yield "## Scores"
    yield ""
    try:
        scores = run.evaluated().get("scores", {})
    except DamagedFileError:
        scores = {}
    if not scores:
        yield "None were measured."
        return
    yield "Of frozen embeddings of validation pixels:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in scores.items():
        yield f"| {name} | {value:.3f} |"
