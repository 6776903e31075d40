"""Draw 100 strategies of a ResNet-50 with capsules that meet a target: how close they come, and how long it takes.

Run it by hand: ``python tests/benchmarks/bench_strategies.py [--model NAME] [--flops KEPT]``. It exits with 1 if a
candidate misses the target by more than 0.005, if one costs more than it, if a network is left alive, or if all of it,
deriving the cost model included, takes longer than 2 seconds.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import replace

import numpy as np
import torch

from qcaps.evaluation.cost_model import cost_model
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import build, image_of, preset
from qcaps.pruning.drawing import draw, usual_cap
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import Target, budget, cut_names

FARTHEST = 0.005
MOST_SECONDS = 2.0


def main() -> int:
    """Draw the candidates, and price one of them many times."""
    options = arguments()
    torch.set_num_threads(1)
    first_call = seconds_of_first_use()
    spec = preset(options.model).spec
    start = time.perf_counter()
    model = cost_model(spec)
    derived = time.perf_counter()
    target = budget(Target("flops", options.flops), model)
    caps = dict.fromkeys(cut_names([target], model), usual_cap(options.flops))
    rules = width_rules(model.units, caps=caps, round_to=options.round_to)
    candidates = [draw(n, seed=0, budgets=[target], rules=rules) for n in range(options.candidates)]
    drawn = time.perf_counter()
    vectors = [model.vector(candidate.widths) for candidate in candidates]
    priced = time.perf_counter()
    for vector in vectors:
        model.macs(vector)
    each = (time.perf_counter() - priced) / len(vectors)
    shares = np.array([target.share(vector) for vector in vectors])
    print(f"torch's first pass on the meta device, once in a process   {first_call:8.3f} s")
    print(f"cost model of {options.model}, {len(model.units)} kinds of units   {derived - start:8.3f} s")
    print(f"{options.candidates} strategies   {drawn - derived:8.3f} s")
    print(f"one strategy priced   {1e6 * each:8.1f} µs")
    print(f"share of the MACs   {shares.min():.5f} to {shares.max():.5f}, target {options.flops}")
    alive = sum(type(found) is CapsuleNetwork for found in gc.get_objects())
    print(f"networks left alive   {alive}")
    held = shares.max() <= options.flops and shares.min() >= options.flops - FARTHEST
    return 0 if held and not alive and drawn - start <= MOST_SECONDS else 1


def seconds_of_first_use() -> float:
    """Let torch import what its meta device needs, and say how long that takes."""
    spec = replace(preset("cnn-small").spec, height=8, width=8)  # type: ignore[type-var]
    network = build(spec).eval()
    start = time.perf_counter()
    with torch.no_grad():
        network(torch.empty(1, *image_of(spec), device="meta"))
    return time.perf_counter() - start


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50-capsnet", help="registry name (default: %(default)s)")
    parser.add_argument("--flops", type=float, default=0.5, help="share of the MACs to keep (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=100, help="strategies to draw (default: %(default)s)")
    parser.add_argument("--round-to", type=int, default=1, help="multiple for channels (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
