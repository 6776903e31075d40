"""Print images per second and peak memory per image of every network of the registry.

Run it by hand: ``python tests/benchmarks/bench_networks.py [--only NAME]``; all of them take some minutes. The numbers
of the networks are random; networks for larger images are given 64×64 pixels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from side_by_side import MEMORY_METHOD, Workload, measure_sides

from qcaps.evaluation.fast import fast_form, multiplies_bfloat16
from qcaps.models.network import encoder_tensors, parameter_count
from qcaps.models.spec import ModelSpec, build, filled, image_of, initialised, preset
from qcaps.quantization.folding import fold_batch_norms
from qcaps.registry import MODELS

LARGEST_SIDE = 64


def main() -> int:
    """Measure one network after the other."""
    options = arguments()
    print(f"batch {options.batch_size}, {options.threads} threads; {MEMORY_METHOD}")
    for name in options.only or MODELS.names():
        forms = [partial(fast, name, options.batch_size, bfloat16=False)]
        if multiplies_bfloat16():
            forms.append(partial(fast, name, options.batch_size, bfloat16=True))
        sides = measure_sides(forms, threads=options.threads, starts=1, turns=2, turn_seconds=options.seconds)
        spec = small_spec(name)
        image = "x".join(map(str, image_of(spec)))
        precisions = "   ".join(f"{kind} {side}" for kind, side in zip(("float32", "bfloat16"), sides, strict=False))
        print(f"{name:30}{image:>9}{parameter_count(build(spec)):>12,} values   {precisions}", flush=True)
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure every network of the registry.")
    parser.add_argument("--only", action="append", choices=MODELS.names(), help="repeat it for several")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of a turn; each form has two")
    return parser.parse_args()


def small_spec(name: str) -> ModelSpec:
    """Give a network for its own images, or for 64×64 pixels if those are larger."""
    spec = preset(name).spec
    side = min(LARGEST_SIDE, spec.height)
    return cast("ModelSpec", replace(cast("Any", spec), height=side, width=side))


def fast(name: str, batch: int, *, bfloat16: bool) -> Workload:
    """Run a network as qcaps does, its batch norms folded where that is exact."""
    spec = small_spec(name)
    folded, tensors = fold_batch_norms(spec, encoder_tensors(initialised(spec, 0)))
    network = filled(folded, tensors, where=name)
    images = torch.rand(batch, *image_of(spec), generator=torch.Generator().manual_seed(0))
    forward = fast_form(network, bfloat16=bfloat16)
    return Workload(lambda pixels: forward(pixels).scores, images)


if __name__ == "__main__":
    raise SystemExit(main())
