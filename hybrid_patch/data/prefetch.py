from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from hybrid_patch.data.batch import Batch
from hybrid_patch.data.source import BrokenSampleError

Item = Batch | BrokenSampleError


def on_device(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """The items in order, batches on a device; a GPU copies the next batch while a step works on the current one."""
    if device.type != "cuda":
        for item in items:
            yield item.map(lambda x: x.to(device)) if isinstance(item, Batch) else item
        return
    stream = torch.cuda.Stream(device)
    coming: tuple[Item, torch.cuda.Event] | None = None
    for item in items:
        ready, coming = coming, _send(item, device, stream)
        if ready is not None:
            yield _receive(*ready, device)
    if coming is not None:
        yield _receive(*coming, device)


def _send(item: Item, device: torch.device, stream: torch.cuda.Stream) -> tuple[Item, torch.cuda.Event]:
    with torch.cuda.stream(stream):
        if isinstance(item, Batch):
            item = item.map(lambda x: x.to(device, non_blocking=True))
        return item, stream.record_event()


def _receive(item: Item, copied: torch.cuda.Event, device: torch.device) -> Item:
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)

    def used_here(tensor: Tensor) -> Tensor:
        # Without this the copying stream would take the memory for the next batch while a step still reads it.
        tensor.record_stream(current)
        return tensor

    return item.map(used_here) if isinstance(item, Batch) else item
