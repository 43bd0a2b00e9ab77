"""Compare runs on one page that answers "what should I use?".

mIoU against cost with intervals over seeds, a table, curves, pictures, what differs besides what was swept over, and
how it was measured; beside the page the same numbers as JSON, CSV and Markdown, and the figures as SVG and PNG.
"""

import sys

from hybrid_patch.config.command import run_command
from hybrid_patch.report.options import ReportOptions


def report_command(options: ReportOptions) -> None:
    from hybrid_patch.report.formatting import printable
    from hybrid_patch.report.write_report import write_report

    print(printable("\n".join(write_report(options, lambda text: print(text, file=sys.stderr, flush=True)))))


def main() -> None:
    run_command("hybrid-patch report", __doc__, ReportOptions, report_command)


if __name__ == "__main__":
    main()
