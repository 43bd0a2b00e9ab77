"""The members of a sweep, run one after the other as processes, and what became of them."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

DONE, BAD_INPUT, STOPPED = 0, 2, 75

# What a signal to the sweep is to its member. A closed terminal has no word of its own there.
FORWARDED = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR2: signal.SIGUSR2,
    signal.SIGHUP: signal.SIGTERM,
}


@dataclass(frozen=True)
class Member:
    """One run of a sweep: the arguments of its command line, and where it lives, or why it cannot run."""

    arguments: list[str]
    directory: Path | None = None
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a member."""

    member: Member
    state: Literal["done", "bad input", "stopped", "failed", "not started"]
    reason: str = ""


class MemberRunner:
    """Runs members as child processes and hands signals on to the one that runs.

    A child has a session of its own, so that Ctrl-C reaches it once, through here, and not from the terminal as well.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.stopped = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, members: Sequence[Member]) -> list[Outcome]:
        """Run members in order until all had their turn or a signal says stop."""
        outcomes: dict[Path, Outcome] = {}
        result = []
        with self._signals():
            for number, member in enumerate(members, start=1):
                title = f"[{number}/{len(members)}] {' '.join(member.arguments)}"
                if self.stopped:
                    outcome = Outcome(member, "not started")
                elif member.directory is None:
                    print(f"error: {title}: {member.error}", file=sys.stderr, flush=True)
                    outcome = Outcome(member, "bad input", member.error)
                elif member.directory in outcomes:
                    before = outcomes[member.directory]
                    outcome = Outcome(member, before.state, "the same run as one before")
                else:
                    print(f"{title}\n  {member.directory}", flush=True)
                    outcome = outcomes[member.directory] = self._run(member)
                result.append(outcome)
        return result

    def _run(self, member: Member) -> Outcome:
        try:
            self._child = subprocess.Popen(
                [*self.command, *member.arguments], stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            return Outcome(member, "failed", f"could not be started: {error}")
        if self.stopped:  # a signal that came while the child was being made
            self._child.terminate()
        code = self._child.wait()
        self._child = None
        return self._outcome(member, code)

    def _outcome(self, member: Member, code: int) -> Outcome:
        if code == DONE:
            return Outcome(member, "done")
        if code == STOPPED:
            return Outcome(member, "stopped", "its state is saved; the same command goes on")
        if code == BAD_INPUT:
            return Outcome(member, "bad input", "see its error above")
        if code >= 0:
            return Outcome(member, "failed", f"exit code {code}")
        name = signal.Signals(-code).name
        if self.stopped:
            return Outcome(member, "stopped", f"by {name}, before it could save")
        memory = " (out of memory?)" if name == "SIGKILL" else ""
        return Outcome(member, "failed", f"killed by {name}{memory}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._child is not None:
            self._child.send_signal(FORWARDED[signal.Signals(number)])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._note) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def exit_code(outcomes: Sequence[Outcome], interrupted: bool) -> int:
    """The code of a sweep: 0 all done, 75 stopped, 2 nothing wrong but bad input, 1 anything else.

    Args:
        interrupted: the sweep itself got a signal; without one, a stopped member counts beside failed ones as failed.
    """
    states = {outcome.state for outcome in outcomes} - {"done"}
    if not states:
        return DONE
    if states == {"stopped"} or (interrupted and states & {"stopped", "not started"}):
        return STOPPED
    return BAD_INPUT if states == {"bad input"} else 1


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line for each member, and how many are done."""
    lines = []
    for outcome in outcomes:
        where = "" if outcome.member.directory is None else f"  {outcome.member.directory}"
        reason = f"  ({outcome.reason})" if outcome.reason else ""
        lines.append(f"{outcome.state:<11} {' '.join(outcome.member.arguments)}{where}{reason}")
    done = sum(outcome.state == "done" for outcome in outcomes)
    return "\n".join([*lines, f"{done} of {len(outcomes)} done"])
