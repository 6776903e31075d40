"""Time the class-capsule layer of ShallowCapsNet against its frozen straightforward form.

Run it by hand: ``python tests/benchmarks/bench_routing.py``. It exits with 1 if the layer is less than three times
as fast, or if the two forms disagree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from routing_straightforward import straightforward_class_capsules
from torch import Tensor

from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.routing import RoutingSpec

LEAST_RATIO = 3.0
N_IN, D_IN, N_OUT, D_OUT, ITERATIONS = 1152, 8, 10, 16, 3


def main() -> int:
    """Compare both forms on one batch and print what each of them manages."""
    options = arguments()
    torch.set_num_threads(options.threads)
    layer, lower = workload(options.batch_size)

    def straightforward() -> Tensor:
        assert layer.routing.bias is not None
        return straightforward_class_capsules(lower, layer.weight, layer.routing.bias, ITERATIONS)

    with torch.inference_mode():
        torch.testing.assert_close(layer(lower), straightforward(), rtol=1e-4, atol=1e-5)
        seconds = alternate(straightforward, lambda: layer(lower), options.repeats)
    slow, fast = (options.batch_size / median(times) for times in seconds)
    print(f"class capsules {N_IN}x{D_IN} -> {N_OUT}x{D_OUT}, {ITERATIONS} iterations, ", end="")
    print(f"batch {options.batch_size}, {options.threads} threads, median of {options.repeats}")
    print(f"straightforward {slow:10.1f} images/s")
    print(f"qcaps           {fast:10.1f} images/s")
    print(f"ratio           {fast / slow:10.2f}, at least {LEAST_RATIO}")
    return 0 if fast >= LEAST_RATIO * slow else 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time the class-capsule layer against its straightforward form.")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def workload(batch_size: int) -> tuple[ClassCapsules, Tensor]:
    """Build the layer and one batch of primary capsules with lengths below one."""
    generator = torch.Generator().manual_seed(0)
    routing = RoutingSpec("dynamic", "hinton_ratio", 0.0, iterations=ITERATIONS, bias="in_loop")
    layer = ClassCapsules(N_IN, D_IN, N_OUT, D_OUT, routing)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return layer, torch.rand(batch_size, N_IN, D_IN, generator=generator) / D_IN**0.5


def alternate(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Time two calls in turn, so that a slow phase of the machine meets both; gives the seconds of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for call, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            call()
            if turn > 0:  # the first turn warms up
                times.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
