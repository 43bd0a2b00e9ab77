"""`hybrid-patch plan`: what the members of a sweep will take, before anything runs (`cost/plan.py`)."""

from hybrid_patch.cost.plan import main

if __name__ == "__main__":
    main()
