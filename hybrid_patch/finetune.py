"""Fine-tune a pretrained model on labels of pixels, classes or numbers: the same training with another objective.

The run's model, upsampler, patch sizes and modalities are taken over, and its data unless others are named. A head of a
few numbers per pixel learns the labels; the weights that score best on validation tiles are those of the finished run.
Exit codes as of hybrid-patch train.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from hybrid_patch.config.command import run_command
from hybrid_patch.config.options import Flag, Option, Overrides, Positional
from hybrid_patch.errors import InputError

FREEZE = {"none": "[]", "encoder": "[encoder]", "all": "[encoder,upsampler]"}
NO_STEPS = 1e-9
"""Share of the stages of the run's curriculum that are over: so little that it is no step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    run: Annotated[str, Positional("DIR", "the pretrained run, or an exported model (also hf://owner/name)")]
    head: Annotated[str | None, Option("linear|conv", "what predicts labels from embeddings (default: linear)")] = None
    freeze: Annotated[
        str | None, Option("none|encoder|all", "what is not trained; all: the head alone is (default: none)")
    ] = None
    fraction: Annotated[str | None, Option("SHARE", "of the training tiles whose labels are used (default: 1)")] = None
    steps: Annotated[str | None, Option("N", "of the training, at most (default: 500)")] = None
    overrides: Annotated[
        tuple[str, ...],
        Overrides(
            {
                "data=OPTION": "other data than the run's, as in hybrid-patch train: data=rasters data.root=FOLDER "
                "data.labels=FOLDER; data.label_kind=numbers for labels that are no classes",
                "KEY=VALUE": "any value of hybrid-patch train: target.fraction_of=pixels, optimizer.lr=0.001, seed=1",
            }
        ),
    ] = ()
    sweep: Annotated[
        bool, Flag("-m", "a sweep on this machine, as of hybrid-patch train: fraction=0.01,1.0 seed=0,1,2")
    ] = False
    submit: Annotated[bool, Flag("--submit", "a sweep by hybrid-patch launch submit: cluster=slurm ...")] = False


def finetune(options: FinetuneOptions) -> int:
    """Train, or become the command that runs the sweep. Raises InputError."""
    words = finetune_words(options)
    if options.sweep or options.submit:
        sys.stdout.flush()
        how = "submit" if options.submit else "run"
        os.execv(sys.executable, [sys.executable, "-m", "launch", how, *words])
    from hybrid_patch.config.compose import compose

    config = compose(words)
    from hybrid_patch.cost.memory_check import check_memory
    from hybrid_patch.cost.peak_flops import peak_flops
    from hybrid_patch.train.attempt import train

    return train(config, check_memory, peak_flops)


def finetune_words(options: FinetuneOptions) -> list[str]:
    """The overrides of hybrid-patch train that the options stand for: those of the run first. Raises InputError."""
    from hybrid_patch.config.same_as import overrides_to

    plain = _config_of(options.run)
    groups = ["experiment=finetune"]
    chosen = [word for word in options.overrides if word.startswith("data=")]
    wanted = {"model": plain["model"], "upsampler": plain["upsampler"], "decoder": plain["decoder"]}
    if "_target_" in plain["upsampler"]:
        groups.append(f"upsampler._target_={plain['upsampler']['_target_']}")
    else:
        groups.append(f"upsampler={plain['upsampler']['name']}")
    if "pixel_dropout" in plain["upsampler"]:
        wanted["upsampler"] = {**plain["upsampler"], "pixel_dropout": 0.0}  # labels are of pixels that it sees
    wanted |= _patch_sizes(plain)
    data = plain["data"]
    groups += chosen or [f"data={data['name']}"]
    if chosen:
        inputs = {name: {**m, "files": None} for name, m in data["modalities"].items() if not m["decode_only"]}
        wanted |= {"data.tile": data["tile"], "data.timesteps": data["timesteps"]}
        wanted |= {"data.modalities": inputs} if inputs else {}
    else:
        wanted["data"] = data
    words = [*groups, *overrides_to(wanted, groups), f"init.from={options.run}", "init.parts=[encoder,upsampler]"]
    given = {"head": options.head, "target.fraction": options.fraction, "trainer.steps": options.steps}
    words += [f"{key}={value}" for key, value in given.items() if value is not None]
    if options.freeze is not None:
        words.append(f"init.freeze={','.join(map(_frozen, options.freeze.split(',')))}")
    return words + [word for word in options.overrides if word not in chosen]


def _frozen(name: str) -> str:
    if name not in FREEZE:
        raise InputError(f"freeze={name}: must be one of {', '.join(FREEZE)}")
    return FREEZE[name]


def _config_of(run: str) -> dict[str, Any]:
    """The plain config of a run or of an exported model, with the modalities that it was trained on."""
    from hybrid_patch.config.compose import frozen_config, plain_values
    from hybrid_patch.runs.exported import CONFIG, DESCRIBED_OF, MODALITIES, is_exported, local_folder, read_part
    from hybrid_patch.runs.records import parser

    folder = local_folder(run)
    if not is_exported(folder):
        return plain_values(frozen_config(Path(folder)))
    plain = read_part(folder / CONFIG, DESCRIBED_OF)["config"]
    modalities: Any = read_part(folder / MODALITIES, parser(dict[str, Any]))
    return plain | {"data": {**plain["data"], "modalities": modalities}}


def _patch_sizes(plain: dict[str, Any]) -> dict[str, Any]:
    """Those of the run, of whose curriculum only the last stage is trained: upsampler and kernels are made for all."""
    *before, last = plain["curriculum"]["stages"]
    if not before:
        return {"patch": plain["patch"]}
    stages = [*({**stage, "share": NO_STEPS} for stage in before), {**last, "share": 1.0}]
    curriculum = {**plain["curriculum"], "name": "finetune", "order": "in_turn", "stages": stages}
    return {"patch": plain["patch"], "curriculum": curriculum}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: Ctrl-C ends the imports without a word
    run_command("hybrid-patch finetune", __doc__, FinetuneOptions, finetune)
