"""Sweeps that somebody watches: a look every few seconds, and members that their queue has lost go back into it.

`python -m launch.watched SWEEP_FOLDER` looks once: at the end of a job.
"""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_patch.errors import DISK_ERRORS, InputError, number_of
from launch.queue.choice import queue_of
from launch.queue.interface import QueueSilentError
from launch.status import POLL, MemberStatus, member_statuses
from launch.sweep import Submission, Sweep, SweepMember

log = logging.getLogger(__name__)


def watched(sweep: Sweep, members: Sequence[SweepMember] | None = None) -> Iterator[list[MemberStatus]]:
    """The status of members (None: all) every few seconds, until none is active. Lost ones go back between looks."""
    said = ""
    while True:
        try:
            statuses = member_statuses(sweep, members, patient=True)
            yield statuses
            if not put_back_lost(sweep) and not any(each.active for each in statuses):
                return
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            if said != str(error):
                log.warning("%s; looking again until the disk is back", said := str(error))
        time.sleep(POLL)


def put_back_lost(sweep: Sweep) -> int:
    """Put members that their queue has lost back into it, within their retries; their number.

    Lost are those which the queue no longer has, and has neither ended with nor been asked to drop.
    """
    count = 0
    try:
        if not _unaccounted(sweep):
            return 0
        with sweep.locked():  # and look again
            for submission, members in _unaccounted(sweep):
                count += len(queue_of(submission.cluster).put_back(submission, members))
    except QueueSilentError:
        return 0
    except InputError as error:  # another process submits, or sbatch fails: at the next look
        log.warning("%s", error)
    if count:
        log.warning("back in the queue, which had lost them: %s", number_of(count, "member"))
    return count


def _unaccounted(sweep: Sweep) -> list[tuple[Submission, list[str]]]:
    """The last submissions of members, with those of them that nobody has any more, and nobody has ended with."""
    statuses = member_statuses(sweep)
    left = {each.member.id for each in statuses if each.resubmittable}
    rows = []
    for submission in reversed(sweep.submissions()):
        if members := sorted(left & submission.waiting()):
            rows.append((submission, members))
        left.difference_update(submission.ids)
    return rows


if __name__ == "__main__":
    put_back_lost(Sweep(Path(sys.argv[1])))
