"""`python -m hybrid_patch.benchmark`, the same as `hybrid-patch benchmark` (`cost/benchmark.py`)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("hybrid_patch.cost.benchmark", run_name="__main__", alter_sys=True)
