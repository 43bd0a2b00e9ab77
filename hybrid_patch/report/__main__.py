"""One page that answers "what should I use?", from run directories or a sweep's folder.

mIoU against cost with intervals over seeds, a table, curves, pictures, what differs besides what was swept over, and
how it was measured; beside the page the same numbers as JSON, CSV and Markdown, and the figures as SVG and PNG.
"""

import sys

from hybrid_patch.config.options import run_command
from hybrid_patch.report.write_report import ReportOptions, write_report


def run(options: ReportOptions) -> None:
    """Write the report; print the answer."""
    print("\n".join(write_report(options, lambda text: print(text, file=sys.stderr, flush=True))))


def main() -> None:
    """The command."""
    run_command("hybrid-patch report", __doc__, ReportOptions, run)


if __name__ == "__main__":
    main()
