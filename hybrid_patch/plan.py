"""`python -m hybrid_patch.plan`, the same as `hybrid-patch plan` (`cost/plan.py`)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("hybrid_patch.cost.plan", run_name="__main__", alter_sys=True)
