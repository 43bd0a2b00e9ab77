"""The process behind a local queue: `python -m launch.queue.local_server <folder of a submission>`.

As many threads as there are slots take members in order, and run each as a process of its own on its own device.
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
from launch.attempts import Stop, attempts, when_there_is_room
from launch.config import Local
from launch.queue.local import code_environment
from launch.queue.local_slots import TakenSlots, slots_of, take
from launch.queue.markers import leave, left
from launch.sweep import Member, read_submission, sweep_of

POLL = 0.3
"""Seconds between looks at words that were left, and at slots that others hold."""


class Server:
    """A queue at work."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.sweep = sweep_of(place)
        self.submission = read_submission(place)
        assert isinstance(self.submission.cluster, Local)
        self.cluster = self.submission.cluster
        members = self.sweep.members()
        self.waiting = deque(members[name] for name in self.submission.members)
        self.stop = Stop()
        self.taking = threading.Lock()

    def serve(self) -> None:
        """Until all members have had their turn, or a signal says stop."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self.stop.note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        slots = slots_of(self.cluster)
        threads = [threading.Thread(target=self._work) for _ in slots]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for member in left(self.place, "cancelled"):
                self.stop.cancel(member)
            time.sleep(POLL)

    def _work(self) -> None:
        while True:
            with self.taking:
                if not self.waiting or self.stop.signals:
                    return
                member = self.waiting.popleft()
            try:
                if not self.stop.asked(member.id):
                    self._run(member)
            except Exception:  # no member may cost the others their turn
                self._say(f"{member.id}: {traceback.format_exc()}")
            when_there_is_room(partial(leave, self.place, "ended", member.id))

    def _run(self, member: Member) -> None:
        slots, taken = slots_of(self.cluster), None
        while taken is None:
            if self.stop.asked(member.id):
                return
            taken = take(slots, min(member.processes, len(slots)))
            if taken is None:
                time.sleep(POLL)
        try:
            run, retries = RunDirectory(self.sweep.run(member.id)), self.cluster.retries
            outcome = attempts(
                run, self.submission.number, retries, self.stop, self._environment(member, taken), kept=taken.files
            )
        finally:
            taken.free()
        self._say(f"{member.id}: {outcome.state} {outcome.cause} {outcome.reason}".rstrip())

    def _environment(self, member: Member, taken: TakenSlots) -> dict[str, str]:
        threads = sum(slot.threads for slot in taken.slots) // member.processes
        found = {**code_environment(self.submission.code), "OMP_NUM_THREADS": str(max(threads, 1))}
        gpus = [slot.gpu for slot in taken.slots if slot.gpu is not None]
        return {**found, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else found

    def _say(self, text: str) -> None:
        with suppress(OSError):  # a full disk
            print(text, flush=True)


def main() -> None:
    """The command."""
    Server(Path(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
