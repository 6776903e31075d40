"""Compare DeepCaps' 3-D convolutional capsules with their frozen straightforward form: speed and peak memory.

Run it by hand: ``python tests/benchmarks/bench_conv3d_capsules.py``. It exits with 1 if the layer is not faster and
smaller, or if the forms disagree.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from conv3d_capsules_straightforward import straightforward_conv3d_capsules
from side_by_side import MEMORY_METHOD, Workload, measure_sides, ratio
from torch import Tensor

from qcaps.capsules.conv_capsules import ConvCapsules3d
from qcaps.capsules.routing import RoutingSpec
from qcaps.evaluation.fast import fast_form
from qcaps.models.network import CapsuleNetwork

TYPES, DIM, ITERATIONS = 32, 8, 3
# Rows and columns of the maps in block 4, for images of 28×28 and of 64×64 pixels.
SIDES = (2, 4)


def main() -> int:
    """Compare both forms for both sizes and print what each of them manages."""
    options = arguments()
    print(f"batch {options.batch_size}, {options.threads} threads; {MEMORY_METHOD}")
    held = [compare(side, options) for side in SIDES]
    return 0 if all(held) else 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare 3-D convolutional capsules with their straightforward form.")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def compare(side: int, options: argparse.Namespace) -> bool:
    """Print what both forms manage; tell whether the layer is faster and smaller."""
    forms = [partial(form, side, options.batch_size) for form in (straightforward, fast)]
    expected, found = (work.forward(work.images) for work in (form() for form in forms))
    torch.testing.assert_close(found, expected.flatten(1, 2), rtol=1e-4, atol=1e-5)
    slow, quick = measure_sides(forms, threads=options.threads)
    print(f"{TYPES}x{DIM} -> {TYPES}x{DIM}, {side}x{side} positions, {ITERATIONS} iterations")
    print(f"  straightforward {slow}\n  qcaps           {quick}")
    print(f"  ratio           {ratio(slow, quick):10.2f}          {slow.peak_bytes / quick.peak_bytes:8.2f}")
    return ratio(slow, quick) > 1 and quick.peak_bytes < slow.peak_bytes


def straightforward(side: int, batch: int) -> Workload:
    """Run the layer as it is described."""
    layer, maps = workload(side, batch)
    conv_bias, routing_bias = layer.conv.bias, layer.routing.bias
    assert conv_bias is not None
    assert routing_bias is not None
    kernel, shared = layer.conv.weight.unsqueeze(1), routing_bias.view(TYPES, DIM, 1, 1)

    def forward(x: Tensor) -> Tensor:
        return straightforward_conv3d_capsules(x, kernel, conv_bias, shared, ITERATIONS)

    return Workload(forward, maps)


def fast(side: int, batch: int) -> Workload:
    """Run the layer as qcaps does: as the only stage of a network, whose output it is."""
    layer, maps = workload(side, batch)
    forward = fast_form(CapsuleNetwork({"skip": layer}))
    return Workload(lambda x: forward(x).capsules, maps)


def workload(side: int, batch: int) -> tuple[ConvCapsules3d, Tensor]:
    """Build the layer and one batch of maps of capsules."""
    generator = torch.Generator().manual_seed(0)
    routing = RoutingSpec("dynamic", "hinton_ratio", 0.0, iterations=ITERATIONS, bias="in_loop")
    layer = ConvCapsules3d(TYPES, DIM, types=TYPES, dim=DIM, grid=(side, side), routing=routing)
    for parameter in layer.requires_grad_(requires_grad=False).parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return layer, torch.rand(batch, TYPES * DIM, side, side, generator=generator) / DIM**0.5


if __name__ == "__main__":
    raise SystemExit(main())
