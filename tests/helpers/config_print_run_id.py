"""Prints the run id of the default config, for data with the fingerprint `data`."""

from hybrid_patch.config.compose import compose
from hybrid_patch.config.recipe import run_id

if __name__ == "__main__":
    print(run_id(compose(), lambda data: "data"))
