"""The process behind a local queue: `python -m launch.queue.local_server <folder of a submission>`.

One thread per slot takes members in order, and runs each as a process on a device of its own.
"""

import signal
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path

from hybrid_patch.runs.directory import RunDirectory
from launch.attempts import Stop, retry_when_full, run_attempts
from launch.config import Local
from launch.queue.local import code_environment
from launch.queue.local_slots import HeldSlots, acquire_slots, slots_of
from launch.queue.markers import mark, marked
from launch.sweep import SweepMember, read_submission, sweep_of

POLL = 0.3
"""Seconds between looks at markers, and at slots that others hold."""


class Server:
    """The server of a submission."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sweep = sweep_of(folder)
        self.submission = read_submission(folder)
        assert isinstance(self.submission.cluster, Local)
        self.cluster = self.submission.cluster
        members = self.sweep.members()
        self.waiting = deque(members[name] for name in self.submission.members)
        self.stop = Stop()
        self.queue_lock = threading.Lock()

    def serve(self) -> None:
        """Run until all members have had their turn, or a signal asks to stop."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.stop.note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threads = [threading.Thread(target=self._work) for _ in slots_of(self.cluster)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for member in marked(self.folder, "cancelled"):
                self.stop.cancel(member)
            time.sleep(POLL)

    def _work(self) -> None:
        while True:
            with self.queue_lock:
                if not self.waiting or self.stop.signals:
                    return
                member = self.waiting.popleft()
            try:
                if not self.stop.asked(member.id):
                    self._run(member)
            except Exception:  # no member may cost the others their turn
                self._log(f"{member.id}: {traceback.format_exc()}")
            retry_when_full(partial(mark, self.folder, "ended", member.id))

    def _run(self, member: SweepMember) -> None:
        slots, held = slots_of(self.cluster), None
        while held is None:
            if self.stop.asked(member.id):
                return
            held = acquire_slots(slots, min(member.processes, len(slots)))
            if held is None:
                time.sleep(POLL)
        try:
            outcome = run_attempts(
                RunDirectory(self.sweep.run(member.id)),
                self.submission.number,
                self.cluster.retries,
                self.stop,
                self._environment(member, held),
                inherited_files=held.files,
            )
        finally:
            held.release()
        self._log(f"{member.id}: {outcome.state} {outcome.cause} {outcome.reason}".rstrip())

    def _environment(self, member: SweepMember, held: HeldSlots) -> dict[str, str]:
        threads = sum(slot.threads for slot in held.slots) // member.processes
        variables = {**code_environment(self.submission.code), "OMP_NUM_THREADS": str(max(threads, 1))}
        gpus = [slot.gpu for slot in held.slots if slot.gpu is not None]
        return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else variables

    def _log(self, text: str) -> None:
        with suppress(OSError):  # a full disk
            print(text, flush=True)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).serve()
