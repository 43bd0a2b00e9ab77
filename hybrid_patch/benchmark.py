"""`hybrid-patch benchmark`: what a training step takes, time and memory (`cost/benchmark.py`)."""

from hybrid_patch.cost.benchmark import main

if __name__ == "__main__":
    main()
