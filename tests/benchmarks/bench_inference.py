"""Time inference against the frozen straightforward forms: ShallowCapsNet and Efficient-CapsNet.

Run it by hand: ``python tests/benchmarks/bench_inference.py``. It exits with 1 if a network is not as many times as
fast as it has to be, or if its forms disagree. With QCAPS_DATA set, bfloat16 is
checked on MNIST, else on digits.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from efficient_capsnet_straightforward import straightforward_efficient_capsnet
from shallow_capsnet_straightforward import straightforward_shallow_capsnet
from side_by_side import MEMORY_METHOD, Workload, measure_sides, ratio
from torch import Tensor

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.data.load import load_split
from qcaps.evaluation.fast import Forward, fast_form, multiplies_bfloat16
from qcaps.models.network import predictions
from qcaps.models.spec import filled, initialised, preset
from qcaps.quantization.folding import fold_batch_norms

PRETRAINED = Path(__file__).parents[2] / "pretrained"
IMAGE = (1, 28, 28)
# In bfloat16 no more than one prediction in a thousand may change.
MOST_CHANGED = 0.001


def main() -> int:
    """Compare the forms and print what each of them manages."""
    options = arguments()
    print(f"batch {options.batch_size}, {options.threads} threads; {MEMORY_METHOD}")
    assert_same_capsules(shallow_straightforward(8), shallow_fast(8))
    assert_same_capsules(efficient_straightforward(8), efficient_fast(8))
    held = [
        compare("shallow-capsnet float32", shallow_straightforward, shallow_fast, 2.0, options),
        compare("efficient-capsnet float32", efficient_straightforward, efficient_fast, 1.5, options),
    ]
    if multiplies_bfloat16():
        half = partial(efficient_fast, bfloat16=True)
        held.append(compare("efficient-capsnet bfloat16", efficient_straightforward, half, 3.0, options))
        held.append(same_predictions())
    return 0 if all(held) else 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time inference against straightforward forms.")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def compare(
    name: str,
    straightforward: Callable[[int], Workload],
    fast: Callable[[int], Workload],
    least: float,
    options: argparse.Namespace,
) -> bool:
    """Print what both forms of a network manage; tell whether the fast one is fast enough."""
    forms = [partial(form, options.batch_size) for form in (straightforward, fast)]
    slow, quick = measure_sides(forms, threads=options.threads)
    found = ratio(slow, quick)
    print(f"{name}\n  straightforward {slow}\n  qcaps           {quick}")
    print(f"  ratio           {found:10.2f}, at least {least}")
    return found >= least


def assert_same_capsules(straightforward: Workload, fast: Workload) -> None:
    """Stop if the forms do not give the same class capsules."""
    expected = straightforward.forward(straightforward.images)
    torch.testing.assert_close(fast.forward(fast.images), expected, rtol=1e-4, atol=1e-5)


def same_predictions() -> bool:
    """Count the predictions that bfloat16 changes on the test images of a trained network."""
    trained = checkpoint("efficient_capsnet_mnist.pt" if "QCAPS_DATA" in os.environ else "efficient_capsnet_digits.pt")
    assert trained.data is not None
    test = load_split(trained.data, "test", download=False)
    pixels = test.prepared()
    single, half = (predictions(folded(trained, bfloat16=bfloat16)(pixels)) for bfloat16 in (False, True))
    changed = int((single != half).sum())
    hits = [int((found == test.labels).sum()) for found in (single, half)]
    print(f"bfloat16 changes {changed} of {len(test)} predictions, {hits[0]} right in float32, {hits[1]} in bfloat16")
    return changed <= MOST_CHANGED * len(test)


def shallow_straightforward(batch: int) -> Workload:
    """Run ShallowCapsNet as it is described."""
    tensors = initialised(preset("shallow-capsnet").spec, 0).state_dict()
    return Workload(partial(straightforward_shallow_capsnet, tensors), random_images(batch))


def shallow_fast(batch: int) -> Workload:
    """Run ShallowCapsNet as qcaps does."""
    forward = fast_form(initialised(preset("shallow-capsnet").spec, 0))
    return Workload(lambda images: forward(images).capsules, random_images(batch))


def efficient_straightforward(batch: int) -> Workload:
    """Run Efficient-CapsNet as it is described."""
    tensors = checkpoint("efficient_capsnet_mnist.pt").tensors
    return Workload(partial(straightforward_efficient_capsnet, tensors), random_images(batch))


def efficient_fast(batch: int, *, bfloat16: bool = False) -> Workload:
    """Run Efficient-CapsNet as qcaps does."""
    forward = folded(checkpoint("efficient_capsnet_mnist.pt"), bfloat16=bfloat16)
    return Workload(lambda images: forward(images).capsules, random_images(batch))


def folded(trained: Checkpoint, *, bfloat16: bool) -> Forward:
    """Give the fast form of a network without its batch norms."""
    model, tensors = fold_batch_norms(trained.model, trained.tensors)
    return fast_form(filled(model, tensors, where="folded"), bfloat16=bfloat16)


def checkpoint(name: str) -> Checkpoint:
    """Read a pretrained network."""
    return read_checkpoint(PRETRAINED / name)[0]


def random_images(batch: int) -> Tensor:
    """Draw a batch, always the same."""
    return torch.rand(batch, *IMAGE, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    raise SystemExit(main())
