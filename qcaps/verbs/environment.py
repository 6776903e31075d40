"""``qcaps env``: what a run depends on besides its options; it does not name the machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

import qcaps
from qcaps.data.load import OFFLINE, default_data_dir
from qcaps.verbs.outcome import Outcome

PACKAGES = (
    *("torch", "torchvision", "torch-pruning", "accelerate", "numpy", "scikit-learn", "pydantic", "pyyaml", "typer"),
    *("rich", "matplotlib", "jinja2", "h5py"),
)


@dataclass(frozen=True)
class Device:
    """One place to compute: its name for ``--device``, what it is, and its memory in bytes where that is known."""

    name: str
    kind: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Environment:
    """What a run depends on.

    Parameters
    ----------
    qcaps, python, system
        Versions, and the kind of machine.
    packages
        Name → version, None where it is not installed.
    threads, cores
        Compute threads of PyTorch, and cores this process may use.
    capability, bfloat16
        Widest vector instructions of the processor that PyTorch uses, and whether convolutions in bfloat16 are fast.
    devices
        The processor first.
    data_dir, data_sets
        Folder of the data sets, and the folders in it, sorted.
    offline
        Whether downloads are off for good.
    """

    qcaps: str
    python: str
    system: str
    packages: dict[str, str | None]
    threads: int
    cores: int
    capability: str
    bfloat16: bool
    devices: tuple[Device, ...]
    data_dir: str
    data_sets: tuple[str, ...]
    offline: bool


def environment() -> Outcome:
    """Describe versions, threads, devices, capabilities and folders."""
    folder = default_data_dir()
    found = Environment(
        qcaps=qcaps.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in PACKAGES},
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        capability=torch.backends.cpu.get_cpu_capability(),
        bfloat16=torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        devices=_devices(),
        data_dir=str(folder),
        data_sets=_folders(folder),
        offline=bool(os.environ.get(OFFLINE)),
    )
    return Outcome(0, (), {"schema": "qcaps.env/1", **dataclasses.asdict(found)}, tuple(_lines(found)))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[Device, ...]:
    found = [Device("cpu", platform.machine(), None)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(Device(f"cuda:{index}", properties.name, properties.total_memory))
    return tuple(found)


def _folders(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    except OSError:
        return ()


def _lines(e: Environment) -> list[str]:
    rows = {
        "qcaps": e.qcaps,
        "python": f"{e.python}, {e.system}",
        **{name: version or "not installed" for name, version in e.packages.items()},
        "threads": f"{e.threads} of {e.cores} cores",
        "processor": f"{e.capability}, bfloat16 {'fast' if e.bfloat16 else 'slow'}",
        "devices": ", ".join(f"{device.name} ({device.kind})" for device in e.devices),
        "data": f"{e.data_dir} ({', '.join(e.data_sets) or 'nothing there'})",
        "downloads": "off" if e.offline else "allowed",
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]
