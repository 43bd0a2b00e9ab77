"""`train --help`: the flags, a line for each group of the config and its options, and a line for each value."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from hybrid_patch.config import fields
from hybrid_patch.config.command import rows_text
from hybrid_patch.config.compose import composed
from hybrid_patch.config.messages import shown
from hybrid_patch.config.overrides import hydra_overrides
from hybrid_patch.config.schema import Config
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError

FLAGS = {
    "-m, --multirun": "train a sweep: a run for each combination of the values of key=a,b or of +sweep=NAME",
    "--cfg job": "print the config instead of training (--resolve: with interpolations resolved; -p GROUP: a part)",
    "--config-dir DIR": "a folder of your own options, in folders named as the groups",
    "--info, --hydra-help": "how the config was composed; all flags of Hydra's",
    "--help, --version": "print this, or the version, and do nothing else",
}
GROUPS = {
    "patch": "the patch sizes that attention sees and that tokens stand for",
    "upsampler": "how coarse tokens become fine ones",
    "decoder": "where hidden tokens are predicted, and how predictions become fine",
    "curriculum": "patch sizes over the training",
    "model": "the encoder's architecture, widths, depths, heads",
    "init": "weights to begin with, and parts that stay as they are",
    "head": "what predicts labels from embeddings, in a fine-tuning",
    "data": "samples, crops, modalities (add one: +modality@data.modalities.NAME=NAME)",
    "masking": "what is hidden",
    "loss": "terms, weights, temperatures",
    "target": "what tokens are compared with",
    "optimizer": "learning rate and its schedule",
    "trainer": "steps, batch size, checkpoints",
    "runtime": "device, precision, processes",
    "evaluation": "the evaluation of the embeddings, during training and at its end",
    "logger": "where metrics go besides metrics.jsonl",
    "experiment": "a ready composition, which may replace any of the above",
    "sweep": "with -m: a set of values to sweep over",
}
"""The groups that a training takes, and what each decides."""


def train_help(description: str, arguments: Sequence[str]) -> str:
    """The help, with the values that the arguments give if they are valid, else the defaults."""
    sources = Sources()
    try:
        config = composed(hydra_overrides([word for word in arguments if not word.startswith("-")], sources), sources)
    except InputError:
        config = composed([], sources)
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    values = [(f"{key}={value}", text) for key, value, text in value_rows(Config, plain)]
    groups = [(f"{group}=OPTION", f"{text}: {', '.join(sources.groups()[group])}") for group, text in GROUPS.items()]
    return "\n\n".join(
        [
            "usage: hybrid-patch train [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]",
            description.strip(),
            rows_text(list(FLAGS.items())),
            "Groups:\n" + rows_text(groups),
            "Values, as they are with these arguments:\n" + rows_text(values, first=38),
            "docs/configuration.md explains more.",
        ]
    )


def value_rows(annotation: Any, node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, value and explanation of each value below a node of the config that may be changed."""
    cls = fields.class_of(annotation, node)
    for name, value in node.items():
        key = f"{prefix}{name}"
        child = fields.child(annotation, node, name)
        inner = fields.class_of(child, value)
        if name == "name" and prefix:
            continue  # told by the group's option
        if isinstance(value, Mapping) and inner is not None:
            yield from value_rows(child, value, f"{key}.")
        else:
            written = f"[{len(value)} of them]" if isinstance(value, Mapping | list) and value else shown(value)
            yield key, written, field_docs(cls).get(str(name), "") if cls is not None else ""


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and its bases, by field."""
    docs: dict[str, str] = dict(getattr(cls, "OPTION_DOCS", {}))
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base) or hasattr(base, "OPTION_DOCS"):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[ast.unparse(field.target).removesuffix("_")] = " ".join(str(text.value.value).split())
    return docs
