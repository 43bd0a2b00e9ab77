"""The parts of a training step, named where they are computed.

A part is a range of torch's profiler: a trace of a real step shows it, and the planner counts by it. The innermost one
counts; what lies in none is the loss's.
"""

from torch.profiler import record_function

EMBEDDING, ENCODER, DECODER, UPSAMPLER, LOSS = PARTS = ("embedding", "encoder", "decoder", "upsampler", "loss")

profiled = record_function
"""A decorator that takes the part's name. The function must not call itself, not even by way of another."""
