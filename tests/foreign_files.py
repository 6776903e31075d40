"""Files as the published systems write them: PyTorch before and since version 1.6, and Keras 2."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def save_zip(path: Path, content: object) -> Path:
    """Save as PyTorch 1.6 and newer do."""
    torch.save(content, path)
    return path


def save_legacy(path: Path, content: object) -> Path:
    """Save as PyTorch before 1.6 did."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def save_keras(
    path: Path, layers: Mapping[str, Weights], *, config: str = "", whole_model: bool = False, suffix: str = ":0"
) -> Path:
    """Save as Keras 2 does: one group for each layer, the order in attributes; `whole_model` adds graph and optimizer.

    The names of weights and their tensors come as they stand in the file, in its own axis order.
    """
    import h5py

    with h5py.File(path, "w") as file:
        if whole_model:
            file.attrs["model_config"] = config
            file.attrs["keras_version"] = "2.4.0"
            optimizer = file.create_group("optimizer_weights")
            optimizer.attrs["weight_names"] = [b"Adam/iter:0"]
            optimizer.create_dataset("Adam/iter:0", data=np.int64(7))
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        root.attrs["backend"] = b"tensorflow"
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{name}{suffix}".encode() for name in weights]
            for name, tensor in weights.items():
                group.create_dataset(f"{name}{suffix}", data=tensor.detach().numpy())
    return path


def on_gpu(path: Path) -> Path:
    """Rewrite a file so that its storages claim to lie on the first GPU, as most published ones do."""
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    data = path.read_bytes()
    assert cpu in data
    if not zipfile.is_zipfile(path):
        path.write_bytes(data.replace(cpu, gpu))
        return path
    return with_pickle(path, pickle_of(path).replace(cpu, gpu))


def pickle_of(path: Path) -> bytes:
    """Give the pickle inside a zip of torch."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/data.pkl")


def with_pickle(path: Path, pickled: bytes) -> Path:
    """Put another pickle into a zip of torch."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    path.write_bytes(zipped({name: pickled if name.endswith("data.pkl") else old for name, old in records.items()}))
    return path


def zipped(records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Zip records without their times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()
