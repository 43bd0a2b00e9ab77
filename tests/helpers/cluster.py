"""A real SLURM cluster of three nodes on this machine, all of its state in one folder.

python tests/helpers/cluster.py FOLDER    starts one, prints what to export, and stops it on Ctrl-C
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2", "n3")
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")

CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=300
MaxArraySize={array_limit}
SlurmctldTimeout=30
SlurmdTimeout=15
BatchStartTimeout=10
CompleteWait=0
UnkillableStepTimeout=20
MessageTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
{accounting}
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.txt
NodeName=DEFAULT CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
{nodes}
PartitionName=DEFAULT Nodes=ALL DefMemPerCPU=200 MaxTime=INFINITE State=UP
PartitionName=low Default=YES PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/run/munge.socket"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=root
StorageLoc=slurm_acct_db
"""


def lacking(accounting: bool = False) -> str:
    """Why no cluster can run here; empty if one can."""
    if os.getuid() != 0:
        return "a SLURM cluster for tests needs root"
    programs = (*NEEDED, "slurmdbd", "mariadbd") if accounting else NEEDED
    missing = [name for name in programs if _program(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


class Cluster:
    """The daemons, and the faults that a test inflicts on them."""

    def __init__(self, folder: Path, accounting: bool = False, array_limit: int = 1001) -> None:
        self.folder, self.accounting, self.array_limit = folder, accounting, array_limit
        self.config = folder / "etc" / "slurm.conf"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("etc", "run", "log", "state", "spool", "dev", "db"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.ports = _free_ports(6)
        self.environment = {**os.environ, "SLURM_CONF": str(self.config)}
        self._write_config()

    def _write_config(self) -> None:
        host, folder = socket.gethostname().split(".")[0], self.folder
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            for name, port in zip(NODES, self.ports[3:], strict=True)
        )
        accounting = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            accounting = ACCOUNTING.format(folder=folder, port=self.ports[1])
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                host=host,
                port=self.ports[0],
                nodes=nodes,
                accounting=accounting,
                array_limit=self.array_limit,
            )
        )
        gpus = f"File={folder}/dev/gpu[0-1]"
        (folder / "etc" / "gres.conf").write_text(f"NodeName=n[1-3] Name=gpu {gpus}\n")
        (folder / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in ("gpu0", "gpu1"):
            os.mknod(folder / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        key = folder / "etc" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        database = folder / "etc" / "slurmdbd.conf"
        database.write_text(DATABASE.format(folder=folder, port=self.ports[1], storage=self.ports[2]))
        database.chmod(0o600)

    def start(self) -> None:
        """Start all daemons, and wait until all nodes are idle."""
        run, log = self.folder / "run", self.folder / "log"
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={self.folder}/etc/munge.key",
            f"--socket={run}/munge.socket",
            f"--pid-file={run}/munged.pid",
            f"--seed-file={run}/munge.seed",
            f"--log-file={log}/munged.log",
        )
        wait_for(lambda: (run / "munge.socket").exists())
        if self.accounting:
            self._start_database()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def _start_database(self) -> None:
        data, port = self.folder / "db", self.ports[2]
        subprocess.run(
            ["mariadb-install-db", "--user=root", f"--datadir={data}", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        where = (f"--datadir={data}", f"--socket={self.folder}/run/db.socket", f"--port={port}")
        self._daemon("mariadbd", "--no-defaults", "--user=root", "--bind-address=127.0.0.1", *where)
        wait_for(lambda: _listens(port))
        self._daemon("slurmdbd", "-D", SLURM_CONF=str(self.config))
        wait_for(lambda: _listens(self.ports[1]))

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._daemon("slurmctld", "-D", "-f", str(self.config))
        wait_for(lambda: self.output_of("scontrol", "ping", check=False).find("is UP") > 0)

    def stop_controller(self) -> None:
        """Stop slurmctld, as a service is stopped.

        Killed, it may not yet have written down the last jobs (it takes up to five seconds), and would give their
        numbers away again when it is back.
        """
        process = self.processes.pop("slurmctld")
        process.terminate()
        process.wait(timeout=60)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.config), name=node)

    def kill(self, name: str) -> None:
        """Kill a daemon with -9."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop all daemons, and what jobs have left."""
        for name in reversed(list(self.processes)):
            process = self.processes.pop(name)
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in processes_of(str(self.folder)):
            os.kill(pid, signal.SIGKILL)

    def clean(self) -> None:
        """Cancel all jobs, and start missing daemons."""
        for name, start in (
            ("slurmctld", self.start_controller),
            *((n, lambda n=n: self.start_node(n)) for n in NODES),
        ):
            if name not in self.processes:
                start()
        self.output_of("scancel", "--user=root", check=False)
        wait_for(lambda: not self.output_of("squeue", "--noheader"))
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until all nodes take jobs."""
        wait_for(
            lambda: self.output_of("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False).split() == ["idle"] * 3
        )

    def output_of(self, *command: str, check: bool = True) -> str:
        """The output of a command within the cluster."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _daemon(self, program: str, *words: str, name: str = "", **environment: str) -> None:
        with (self.folder / "log" / f"{name or program}.out").open("ab") as log:
            self.processes[name or program] = subprocess.Popen(
                [_program(program) or program, *words],
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def wait_for(condition: "object", seconds: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def processes_of(word: str) -> list[int]:
    """Processes other than this one with a word in their command line."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in words and int(path.parent.name) != os.getpid():
            pids.append(int(path.parent.name))
    return pids


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).absolute(), accounting="--accounting" in sys.argv)
    cluster.start()
    print(f"export SLURM_CONF={cluster.config}", flush=True)
    try:
        signal.pause()
    finally:
        cluster.stop()
