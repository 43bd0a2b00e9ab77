"""`srun ... python -m launch.queue.slurm_rank COMMAND ...`: set torchrun's variables, and become the command."""

import os
import re
import shutil
import socket
import subprocess
import sys

from submitit.slurm.slurm import SlurmJobEnvironment

PORTS = range(20000, 30000)


def main() -> None:
    environment = os.environ
    job = int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_RESTART_COUNT", "0")) * 7
    tasks, nodes = int(environment["SLURM_NTASKS"]), int(environment["SLURM_NNODES"])
    environment |= {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "GROUP_RANK": environment["SLURM_NODEID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": address(SlurmJobEnvironment().hostnames[0]),
        "MASTER_PORT": str(PORTS[job % len(PORTS)]),
        "TORCHELASTIC_RUN_ID": environment["SLURM_JOB_ID"],
    }
    os.execvp(sys.argv[1], sys.argv[1:])


def address(node: str) -> str:
    """A node's address: its name if that resolves or SLURM cannot be asked, else the one that SLURM uses."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except socket.gaierror:
        if shutil.which("scontrol") is None:  # in a container
            return node
        node_line = subprocess.run(["scontrol", "show", "node", "-o", node], capture_output=True, text=True, check=True)
        match = re.search(r"NodeAddr=(\S+)", node_line.stdout)
        return match[1] if match else node


if __name__ == "__main__":
    main()
