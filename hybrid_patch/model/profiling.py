"""Named parts of a training step in torch's profiler; the planner counts by the innermost, the rest as loss."""

from torch.profiler import record_function

EMBEDDING, ENCODER, DECODER, UPSAMPLER, LOSS = PARTS = ("embedding", "encoder", "decoder", "upsampler", "loss")

profiled = record_function
"""A decorator that takes the part's name. The function must not be recursive, not even indirectly."""
