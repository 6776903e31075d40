"""Several processes that work on one job: started by ``torchrun``, or a single one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, over gloo; alone there is nothing to join."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def process_count() -> int:
    """Count the processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_index() -> int:
    """Give the place of this process; the first one, 0, alone writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def from_first(value: Value) -> Value:
    """Give every process what the first one has."""
    if process_count() == 1:
        return value
    held: list[Value] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def from_all(value: Value) -> list[Value]:
    """Give every process what each of them has, in the order of their places."""
    if process_count() == 1:
        return [value]
    found: list[Value] = [value] * process_count()
    dist.all_gather_object(found, value)
    return found
