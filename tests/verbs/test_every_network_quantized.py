"""Every kind of network goes through the whole job: quantized, proven, written, loaded and scored."""

from __future__ import annotations

import dataclasses

import pytest

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.data.spec import data_spec
from qcaps.models.capsnet_flavours import EFFICIENTCN
from qcaps.models.cnn_baselines import CNN_R
from qcaps.models.deepcaps import DEEPCAPS
from qcaps.models.efficient_capsnet import SMALLNORB
from qcaps.models.em_capsnet import EM_CAPSNET
from qcaps.models.mobilenetv1_capsnet import MOBILENETV1_CAPSNET
from qcaps.models.spec import initialised

DIGITS = {"channels": 1, "height": 28, "width": 28, "classes": 10}
SMALL = {
    "prior logits": (EFFICIENTCN, {"conv_channels": (4,), "primary_types": 2, "primary_dim": 4}),
    "instance norm": (SMALLNORB, {"conv_channels": (4, 4, 4, 16), "conv_kernels": (5, 3, 3, 3)}),
    "3-d routing": (DEEPCAPS, {"conv_channels": 4, "types": (2,) * 12, "dims": (2,) * 12, "competing_types": 2}),
    "capsule head": (MOBILENETV1_CAPSNET, {"widths": (4,) * 13 + (16,), "primary_types": 2}),
    "em routing": (EM_CAPSNET, {"conv_channels": 4, "primary_types": 2, "conv_types": (2, 2)}),
    "no routing": (CNN_R, {"conv1_channels": 4, "conv2_channels": 4, "class_dim": 2}),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_file_holds_what_was_measured(name, tmp_path):
    preset, numbers = SMALL[name]
    spec = dataclasses.replace(preset.spec, **DIGITS, **numbers)
    network = initialised(spec, seed=0)
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    write_checkpoint(tmp_path / "random.pt", Checkpoint(spec, tensors, data_spec("digits"), {}))
    done = qcaps.quantize(tmp_path / "random.pt", accuracy_tolerance=100, out=tmp_path / "out")
    assert done.exit_code == 0
    (model,) = done.document["result"]
    scored = qcaps.evaluate(done.files[0], latency=False).document["files"][0]
    assert scored["file_bytes"] == model["file_bytes"] == done.files[0].stat().st_size
    assert scored["weight_bytes"] == model["payload_bytes"]
    assert scored["correct"] == model["report"]["score"]["correct"]
