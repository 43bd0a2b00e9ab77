"""A training that takes no time, with the real command line: `python -m config_stand_in [overrides]`.

`trainer.steps` chooses how it ends: the numbers below, or done.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from hybrid_patch.config.hydra_main import hydra_command
from hybrid_patch.config.recipe import run_directory, run_id
from hybrid_patch.config.schema import Config
from hybrid_patch.errors import InputError

RAISES, KILLED, LATE_BAD_INPUT, STOPPED, WAITS = 901, 902, 903, 904, 905


def train(config: Config) -> int:
    """Leave a record in the run's directory, then end as `trainer.steps` says."""
    directory = run_directory(config, run_id(config))
    directory.mkdir(parents=True, exist_ok=True)
    record = {"argv": sys.argv[1:], "torch": "torch" in sys.modules, "root": getattr(config.data, "root", None)}
    (directory / "record.json").write_text(json.dumps(record))
    steps = config.trainer.steps
    if steps == RAISES:
        raise RuntimeError("broken on purpose")
    if steps == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if steps == LATE_BAD_INPUT:
        raise InputError("data.root=x: found out late\nand on two lines")
    if steps == STOPPED:
        return 75
    if steps == WAITS:
        return wait_for_signal(directory)
    return 0


def wait_for_signal(directory: Path) -> int:
    """75 after SIGTERM or SIGINT, counting how often it came."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    (directory / "waiting").touch()
    while not received:
        time.sleep(0.01)
    time.sleep(0.2)
    (directory / "received.json").write_text(json.dumps(received))
    return 75


if __name__ == "__main__":
    hydra_command("A training that takes no time.", train)
