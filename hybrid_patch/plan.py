"""`python -m hybrid_patch.plan`, as `hybrid-patch plan`: what the members of a sweep will take, before anything runs (`cost/plan.py`)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("hybrid_patch.cost.plan", run_name="__main__", alter_sys=True)
