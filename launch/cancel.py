"""Cancel members wherever they run, and tell which of them could not be reached."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hybrid_patch.runs.lock import HEARTBEAT_SECONDS, Holder, is_alive, process_here
from hybrid_patch.runs.records import DamagedFileError
from launch.queue.choice import queue_of
from launch.sweep import Sweep, SweepMember

POLL = 0.5
"""Seconds between looks at a process that was asked to end."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""After this long without a heartbeat, it cannot be reached."""
PATIENCE_SECONDS = 300.0
"""How long it may save its state."""
HINT = "it ends at its next heartbeat if it lives, or by kill there"


def cancel_members(sweep: Sweep, members: Sequence[SweepMember]) -> dict[str, Holder]:
    """Cancel members in every submission that has them. Returns the processes that were at work, by member.

    Those are asked through their run directories too: a scheduler that has lost one reaches it no more.
    """
    ids = {member.id for member in members}
    submissions = [(each, ids.intersection(each.ids)) for each in sweep.submissions()]
    submissions = [(submission, submitted) for submission, submitted in submissions if submitted]
    for submission, submitted in submissions:
        for member in submitted:
            submission.mark("cancelled", member)
    asked = {}
    for member in sorted(ids):
        with suppress(DamagedFileError):
            if holder := sweep.run(member).ask_to_stop():
                asked[member] = holder
    for submission, _ in submissions:
        queue_of(submission.cluster).cancel(submission)
    return asked


def unreached(sweep: Sweep, asked: Mapping[str, Holder]) -> list[str]:
    """Wait until processes that were asked have ended; a line for each that has not."""
    began, lines, left = time.time(), [], dict(asked)
    while left:
        for member, holder in list(left.items()):
            silent = time.time() - max(began, sweep.run(member).status_if_whole().heartbeat)
            if _has_ended(sweep, member, holder):
                del left[member]
            elif silent > SILENT_SECONDS:
                lines.append(f"{member}: {holder} could not be reached: no sign of life for {silent:.0f} s; {HINT}")
                del left[member]
        if time.time() - began > PATIENCE_SECONDS:
            return lines + [f"{member}: {holder} has not ended yet; {HINT}" for member, holder in left.items()]
        time.sleep(POLL if left else 0)
    return lines


def _has_ended(sweep: Sweep, member: str, holder: Holder) -> bool:
    """Whether the holder of a run's lock is gone, or elsewhere has given it back, just before it ends."""
    if process_here(holder) is not None:
        return False
    try:
        now = sweep.run(member).holder()
    except DamagedFileError:
        return False
    if now is None or now.token != holder.token:
        return True
    return not is_alive(holder, time.time())  # elsewhere it may live, however long it is silent
