"""Whether the quick suite finds faults in the core: one after the other, in a copy of the checkout.

    python -m tests.tools.mutations [WORD]      only those in files, or at lines, with the word

Prints a line per fault: found by which test, or not found. Exit code 1 if one is not found.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("hybrid_patch", "launch", "conf", "tests", "docs", "pyproject.toml", "README.md", "Makefile")


class Mutation(NamedTuple):
    """A fault: what stands in a file of `hybrid_patch`, once, and what is put in its place."""

    file: str
    right: str
    wrong: str


TESTS = {
    "model/tokens.py": ("tests/model", "tests/loss"),
    "loss/logsumexp.py": ("tests/loss",),
    "data/masking.py": ("tests/data", "tests/cost"),
    "config/recipe.py": ("tests/config/test_config_recipe.py", "tests/config"),
    "runs/lock.py": ("tests/runs", "tests/train"),
}
"""The tests that each file's faults are looked for by, those that are likely to find them first."""

TOKENS, SUMS, MASKS, RECIPE, LOCK = TESTS
MUTATIONS = (
    Mutation(TOKENS, "masked / masked.sum(-1, keepdim=True).clamp(min=SMALLEST_WEIGHT)", "masked"),
    Mutation(
        TOKENS, "torch.where(self.mask[..., None], self.tokens, 0)\n\n\n@dataclasses", "self.tokens\n\n\n@dataclasses"
    ),
    Mutation(TOKENS, "(2 * (weights @ (neighbours @ basis.mT))", "((weights @ (neighbours @ basis.mT))"),
    Mutation(TOKENS, "self.basis @ weight\n", "self.basis\n"),
    Mutation(
        TOKENS, "cells = dense.unflatten(1, (h * w, -1)).transpose(2, 3)", "cells = dense.unflatten(1, (h * w, -1))"
    ),
    Mutation(SUMS, "return total + ((query - query.detach()) * expected_key).sum(-1)", "return total"),
    Mutation(SUMS, "logits.amax(-1) - weights.amax(-1).log()", "logits.amax(-1) + weights.amax(-1).log()"),
    Mutation(SUMS, "NEVER = -1e4", "NEVER = -1e1"),
    Mutation(SUMS, "part = slice(start, start + rows)", "part = slice(start, start + rows - 1)"),
    Mutation(MASKS, "np.any(cells, axis=(2, 4))", "np.all(cells, axis=(2, 4))"),
    Mutation(MASKS, "encode = np.maximum(encode, np.minimum(count, 1))", "pass"),
    Mutation(MASKS, "values[rank < encode + decode] = Mask.DECODE", "values[rank < decode] = Mask.DECODE"),
    Mutation(MASKS, "chosen = times[:split] if value == Mask.ENCODE", "chosen = times[split:] if value == Mask.ENCODE"),
    Mutation(RECIPE, "sort_keys=True", "sort_keys=False"),
    Mutation(RECIPE, "without_aside(Config, plain_values(config))", "plain_values(config)"),
    Mutation(RECIPE, 'fields["data"]["fingerprint"] = fingerprint(config.data)', 'fields["data"]["fingerprint"] = ""'),
    Mutation(LOCK, "holder.token != token:\n", "False:\n"),
    Mutation(LOCK, "and is_alive(holder, heartbeat):", "and False:"),
    Mutation(LOCK, "began is not None and began == holder.began", "began is not None"),
    Mutation(LOCK, "return time.time() - max(heartbeat, holder.time) < STALE_SECONDS", "return True"),
)


def found_by(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails with a fault in a copy of the checkout; None if all pass."""
    file = copy / "hybrid_patch" / mutation.file
    right = file.read_text()
    if right.count(mutation.right) != 1:
        raise SystemExit(f"{mutation.file}: {mutation.right!r} does not stand there once")
    file.write_text(right.replace(mutation.right, mutation.wrong))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *TESTS[mutation.file]],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.write_text(right)
    if done.returncode == 0:
        return None
    if failed := re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE):
        return failed[1]
    raise SystemExit(f"{mutation.file}: the tests could not be run:\n{done.stdout}{done.stderr}")


def main(word: str = "") -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        copy.mkdir()
        (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        for name in COPIED:
            made = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            made(ROOT / name, copy / name)
        missed = 0
        for mutation in MUTATIONS:
            if word in mutation.file or word in mutation.right:
                test = found_by(mutation, copy)
                missed += test is None
                wrong = " ".join(mutation.wrong.split())
                print(f"{mutation.file}: {wrong}: {test or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
