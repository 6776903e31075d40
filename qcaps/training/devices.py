"""Where training runs: devices, processes and mixed precision, through accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from qcaps.errors import UsageError, quoted


def accelerator(device: str, mixed_precision: str) -> Accelerator:
    """Make the accelerator of one training run.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    mixed_precision
        ``no``, ``bf16`` or ``fp16``.

    Raises
    ------
    UsageError
        If this machine has no such device, or the device no such precision.
    """
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cpu", "cuda"} or (number and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"unknown device {quoted(device)}", where="--device", do="use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"there is no {device}", where="--device", do=f"this machine has {count} CUDA devices")
    if number:
        torch.cuda.set_device(int(number))
    # The state is one per process; a second run of the same process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        made = Accelerator(cpu=kind == "cpu", mixed_precision=mixed_precision)
    except ValueError as error:
        raise UsageError(f"{mixed_precision} is not possible here: {error}", where="--mixed-precision") from error
    if mixed_precision != "no" and not made.native_amp:
        # Accelerate would train in float32 without a word.
        raise UsageError(
            f"{mixed_precision} is not possible on {made.device}", where="--mixed-precision", do="use bf16 or no"
        )
    return made
