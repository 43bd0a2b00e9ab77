"""Named parts of a training step, as ranges of torch's profiler.

A trace of a real step shows them, and the planner counts by them: by the innermost one, and outside all of them as part
of the loss.
"""

from torch.profiler import record_function

EMBEDDING, ENCODER, DECODER, UPSAMPLER, LOSS = PARTS = ("embedding", "encoder", "decoder", "upsampler", "loss")

profiled = record_function
"""A decorator that takes the part's name. The function must not be recursive, not even indirectly."""
