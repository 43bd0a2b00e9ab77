"""Running the command line as a person does: a real process in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STAND_IN = "config_stand_in"


def started(folder: Path, *arguments: str, module: str = STAND_IN, **environment: str) -> "subprocess.Popen[str]":
    """`python -m module arguments`, begun in a folder, in a session of its own."""
    search = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    variables = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ran(
    folder: Path, *arguments: str, module: str = STAND_IN, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """The same, waited for."""
    process = started(folder, *arguments, module=module, **environment)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
