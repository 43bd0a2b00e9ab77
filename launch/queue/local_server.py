"""`python -m launch.queue.local_server SUBMISSION_FOLDER`: a thread for each slot runs members, a process each."""

import signal
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from pathlib import Path

from launch.config import Local
from launch.queue.attempts import Attempts
from launch.queue.local_slots import Slot, acquire_slots, release_slots, slots_of
from launch.queue.process import POLL, QueueProcess
from launch.sweep import SweepMember


class Server(QueueProcess):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        assert isinstance(self.submission.cluster, Local)
        self.slots = slots_of(self.submission.cluster)
        self.waiting = deque(self.submission.members)
        self.queue_lock = threading.Lock()

    def serve(self) -> None:
        """Run all members, or until a signal asks to stop."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.join([self._work for _ in self.slots])

    def _work(self) -> None:
        while True:
            with self.queue_lock:
                if not self.waiting or self.signals:
                    return
                member = self.waiting.popleft()
            try:
                self._run(member)
            except Exception:  # no member may cost the others their turn
                self._log(f"{member.id}: {traceback.format_exc()}")
            self.mark_ended(member)

    def _run(self, member: SweepMember) -> None:
        while not self.stopping(member.id):
            if held := acquire_slots(self.slots, min(member.processes, len(self.slots))):
                break
            time.sleep(POLL)
        else:
            return
        try:
            environment = self._environment(member, held)
            outcome = Attempts(self, member.id, environment, inherited_files=list(held.values())).make()
        finally:
            release_slots(held)
        self._log(f"{member.id}: {outcome.state} {outcome.cause} {outcome.reason}".rstrip())

    def _environment(self, member: SweepMember, held: dict[Slot, int]) -> dict[str, str]:
        threads = sum(slot.threads for slot in held) // member.processes
        variables = {**self.submission.environment(), "OMP_NUM_THREADS": str(max(threads, 1))}
        gpus = [slot.gpu for slot in held if slot.gpu is not None]
        return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else variables

    def _log(self, text: str) -> None:
        with suppress(OSError):  # a full disk
            print(text, flush=True)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).serve()
