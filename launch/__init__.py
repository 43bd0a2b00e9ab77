"""Sweeps on this machine's slots, or fanned out to SLURM, and never run twice. It knows a run by its directory."""
