"""Processor time of starts, of one checkout or of several in turn, medians of five, and a suite's slowest files.

python -m tests.tools.start_times [CHECKOUT ...]     this one by default; the same .venv for all
python -m tests.tools.start_times suite.xml          the slowest files of a run of pytest --junitxml=suite.xml
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
TIMES = 5
FILES = 15
TINY = (
    *("logger=none", "evaluation=none", "data.scenes=4", "data.scene_size=32", "data.scene_timesteps=4"),
    *("data.tile=16", "data.timesteps=2", "trainer.batch_size=2", "runtime.threads=1"),
    *(f"model.{part}={{width:32,depth:1,heads:4,mlp_ratio:2.0}}" for part in ("encoder", "decoder")),
)
TRAIN = ["hybrid_patch.train", *TINY, "trainer.steps=1"]
EMBED = """
import numpy, hybrid_patch
model = hybrid_patch.load({run!r})
model.embed({{"sentinel2_l2a": numpy.ones((64, 64, 1, 12), "float32")}}, dates=["2020-06-01"])
"""
COMMANDS = ("train", "evaluate", "embed", "plan", "report", "launch", "launch submit")


def processor_seconds(checkout: Path, words: list[str], folder: Path) -> float:
    """Of a Python process with these words and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))


def start_times(checkouts: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", *TRAIN, f"run_dir={folder / 'run'}"], check=True, capture_output=True)
        starts = {f"{command} --help": ["-m", "hybrid_patch", *command.split(), "--help"] for command in COMMANDS}
        starts["a training's first step"] = ["-m", *TRAIN]
        starts["load and embed an image"] = ["-c", EMBED.format(run=str(folder / "run"))]
        print("processor seconds:", *checkouts, sep="  ")
        for title, words in starts.items():
            seconds: list[list[float]] = [[] for _ in checkouts]
            for turn in range(TIMES + 1):  # the first fills the caches
                for number, (checkout, each) in enumerate(zip(checkouts, seconds, strict=True)):
                    run = [f"run_dir={folder / f'{turn}-{number}'}"] if "hybrid_patch.train" in words else []
                    each.append(processor_seconds(checkout, words + run, folder))
            print(title, *(f"{statistics.median(each[1:]):.2f}" for each in seconds), sep="  ", flush=True)


def slowest_files(report: Path) -> None:
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        seconds[case.get("classname", "").replace(".", "/") + ".py"] += float(case.get("time", 0))
    print(f"{sum(seconds.values()):.0f} s in all")
    for file, each in sorted(seconds.items(), key=itemgetter(1), reverse=True)[:FILES]:
        print(f"{each:6.1f} s  {file}")


def main(words: list[str]) -> None:
    if words and words[0].endswith(".xml"):
        slowest_files(Path(words[0]))
    else:
        start_times([Path(word).resolve() for word in words] or [ROOT])


if __name__ == "__main__":
    main(sys.argv[1:])
