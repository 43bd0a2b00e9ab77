"""Run sweeps on this machine, or on a SLURM cluster."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from hybrid_patch.config.command import answer_help, rows_text, run_command
from hybrid_patch.config.messages import did_you_mean
from hybrid_patch.errors import InputError, input_errors_end

COMMANDS = {
    "plan": ("launch.commands", "plan_command", "PlanOptions"),
    "submit": ("launch.commands", "submit_command", "SubmitOptions"),
    "run": ("launch.foreground", "run_here", "RunOptions"),
    "search": ("launch.search", "search_command", "SearchOptions"),
    "status": ("launch.watching", "status_command", "StatusOptions"),
    "wait": ("launch.watching", "wait_command", "WaitOptions"),
    "logs": ("launch.watching", "logs_command", "LogsOptions"),
    "cancel": ("launch.commands", "cancel_command", "CancelOptions"),
    "resume": ("launch.commands", "resume_command", "ResumeOptions"),
    "report": ("launch.watching", "sweep_report_command", "SweepReportOptions"),
    "query": ("hybrid_patch.report.query", "query_command", "QueryOptions"),
    "diff": ("hybrid_patch.report.diff", "diff_command", "DiffOptions"),
}  # module, function, options


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    answer_help(words[:1], _help)
    name, *rest = words
    with input_errors_end():
        if name not in COMMANDS:
            raise InputError(f"{name}: no such command; takes: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
    module, function, options = COMMANDS[name]
    command, fields = (getattr(import_module(module), attribute) for attribute in (function, options))
    run_command(f"hybrid-patch launch {name}", inspect.getdoc(command), fields, command, rest)


def _help() -> str:
    docs = {name: getattr(import_module(module), function).__doc__ for name, (module, function, _) in COMMANDS.items()}
    rows = [(name, doc.partition("\n")[0]) for name, doc in docs.items()]
    rows.append(("--help, --version", "print this, or the version, and do nothing else"))
    usage = "usage: hybrid-patch launch COMMAND ...   (COMMAND --help explains its options)"
    return f"{usage}\n\n{__doc__}\n\n{rows_text(rows)}"


if __name__ == "__main__":
    main()
