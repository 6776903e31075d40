"""Time the judging of a plan of at most 8 bits against its frozen straightforward form: ShallowCapsNet.

Run it by hand: ``python tests/benchmarks/bench_quantized.py [--checkpoint FILE]``. It exits with 1 if the judge is not
as many times as fast as it has to be on this processor, or if the two forms do not give the same predictions. A
checkpoint is judged on the validation images of its data set, which has to be at hand, and a whole search is timed
against 20 evaluations of the straightforward form; without one the numbers of the network and the images are random.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import torch
from quantized_straightforward import straightforward_quantized_capsnet
from side_by_side import MEMORY_METHOD, Workload, measure_sides, ratio
from torch import Tensor

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.capsules.sites import role_of
from qcaps.config import QuantizeConfig
from qcaps.data.images import ImageSet, Split
from qcaps.data.load import load_split
from qcaps.data.preparation import PLAIN, prepare
from qcaps.data.spec import data_spec
from qcaps.evaluation.ends import Ends
from qcaps.models.network import encoder_tensors
from qcaps.models.spec import image_of, initialised, preset
from qcaps.progress import silent
from qcaps.quantization.applying import round_weights, weights_replaced
from qcaps.quantization.calibration import Calibration, calibrate
from qcaps.quantization.formats import FixedPoint
from qcaps.quantization.integer import convolution_inputs, integer_convolutions
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.judging import Bench
from qcaps.quantization.search.pareto import search_pareto
from qcaps.quantization.search.staging import StageMemory, running
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import run_search
from qcaps.verbs.quantize_job import calibrated, make_job, make_task

# The least ratio with int8 matrix units, and with other int8 units or none; and that of evaluations to a whole search.
LEAST_WITH_MATRICES, LEAST = 6.0, 2.5
LEAST_OF_SEARCH_WITH_MATRICES, LEAST_OF_SEARCH, EVALUATIONS = 12.0, 5.0, 20
WEIGHT_BITS = {"conv1.weight": 6, "primary.weight": 2, "class_caps.weight": 3}
ARRAY_BITS = {"out": 6, "votes": 5, "coupling": 8, "sum": 8, "logits": 8}
CALIBRATION_IMAGES = 100


def main() -> int:
    """Compare the two forms and print what each of them manages."""
    options = arguments()
    torch.set_num_threads(options.threads)
    plan = plan_of(options.checkpoint)
    print(f"batch {options.batch_size}, {options.threads} threads; {MEMORY_METHOD}")
    print(f"computed with integers: {', '.join(computed_with_integers(options.checkpoint, plan)) or 'nothing'}")
    forms = [partial(form, options.checkpoint, plan) for form in (straightforward, judged)]
    agree = same_predictions([form(options.images) for form in forms], options.batch_size)
    slow, quick = measure_sides([partial(form, options.batch_size) for form in forms], threads=options.threads)
    matrices = torch.cpu.get_capabilities().get("amx_int8")
    least = LEAST_WITH_MATRICES if matrices else LEAST
    found = ratio(slow, quick)
    print(f"straightforward {slow}\nqcaps           {quick}")
    print(f"ratio           {found:10.2f}, at least {least}")
    held = agree and found >= least
    if options.checkpoint is not None:
        seconds, count = whole_search(options.checkpoint)
        evaluations = EVALUATIONS * count * median(slow.turns) / slow.batch
        least = LEAST_OF_SEARCH_WITH_MATRICES if matrices else LEAST_OF_SEARCH
        print(f"whole search    {seconds:10.1f} s; {EVALUATIONS} evaluations, straightforward: {evaluations:.0f} s")
        print(f"ratio           {evaluations / seconds:10.2f}, at least {least}")
        held = held and evaluations >= least * seconds
    return 0 if held else 1


def whole_search(path: Path) -> tuple[float, int]:
    """Search at the default tolerance, calibration and float pass included: seconds, and images of the split."""
    source = read_checkpoint(path)[0]
    assert source.data is not None
    search, training = (load_split(source.data, split) for split in ("validation", "train"))
    started = time.perf_counter()
    job = make_job(source, source.data, QuantizeConfig(scales="channel"))
    bench = Bench(
        search, journal=None, on_progress=silent, ends=Ends(),
        memory_bytes=job.config.cache_memory,
    )  # fmt: skip
    baseline = bench.measure_float(source.model, source.network())
    task = make_task(job, "round_to_nearest", calibrated(job, training, bench), bench, baseline)
    found = run_search(search_pareto, task)
    assert found.satisfied is not None
    return time.perf_counter() - started, len(search)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time the judging of a plan against its straightforward form.")
    parser.add_argument("--checkpoint", type=Path, help="a trained ShallowCapsNet of the published shape")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--images", type=int, default=500, help="on which the predictions are compared")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def plan_of(path: Path | None) -> BitPlan:
    """Choose the formats of the plan by calibration on training images."""
    network = trained(path).network()
    pixels = images(path, CALIBRATION_IMAGES, "train")
    names = tuple(map(str, range(10)))
    source = ImageSet("mnist", "train", pixels, torch.zeros(len(pixels)).long(), torch.arange(len(pixels)), names)
    ranges = calibrate(network, source, batch_size=50, seed=0)
    subject = subject_of(path, ranges)
    widths = {site: WEIGHT_BITS.get(site, 8) for site in ranges.weights}
    return subject.plan(widths | {site: ARRAY_BITS[role_of(site)] for site in ranges.arrays})


def computed_with_integers(path: Path | None, plan: BitPlan) -> tuple[str, ...]:
    """Name the convolutions that the judge computes with integers on this processor."""
    subject = subject_of(path)
    inputs = convolution_inputs(subject.network, image_of(subject.model))
    with (
        weights_replaced(subject.network, subject.round_weights(plan).tensors),
        integer_convolutions(subject.network, plan, inputs) as names,
    ):
        return names


def same_predictions(forms: list[Workload], batch_size: int) -> bool:
    """Count the predictions in which two forms differ."""
    with torch.inference_mode():
        one, other = (
            torch.cat([form.forward(batch) for batch in form.images.split(batch_size)]).argmax(1) for form in forms
        )
    print(f"predictions that differ: {int((one != other).sum())} of {len(one)}, {len(one.unique())} classes among them")
    return torch.equal(one, other)


def straightforward(path: Path | None, plan: BitPlan, count: int) -> Workload:
    """Run the plan as it is described; gives the lengths of the class capsules."""
    network = trained(path).network()
    tensors = round_weights(network, plan, 0).tensors
    formats = {site: (f.bits, f.frac_bits) for site, f in plan.arrays.items() if isinstance(f, FixedPoint)}
    capsules = partial(straightforward_quantized_capsnet, tensors, formats)
    return Workload(lambda pixels: capsules(pixels).norm(dim=2), images(path, count).float() / 255)


def judged(path: Path | None, plan: BitPlan, count: int) -> Workload:
    """Run the plan as the judge of the search does; gives the scores."""
    opened = ExitStack()
    run = opened.enter_context(running(subject_of(path), plan, StageMemory(0, count)))

    def forward(pixels: Tensor, _kept_open: ExitStack = opened) -> Tensor:
        return run(0, pixels, torch.arange(len(pixels)), 0)

    return Workload(forward, prepare(images(path, count), PLAIN))


def subject_of(path: Path | None, ranges: Calibration | None = None) -> Subject:
    """Make what the search would quantize."""
    source = trained(path)
    assert source.data is not None
    model, network = source.model.without_decoder(), source.network()
    ranges = Calibration({}, {}) if ranges is None else ranges
    return Subject(model, network, source.data, ranges, "round_to_nearest", seed=0, per_channel=True)


def trained(path: Path | None) -> Checkpoint:
    """Read a network without its decoder, or draw one."""
    if path is None:
        spec = preset("shallow-capsnet").spec
        tensors = initialised(spec, 0).state_dict()
        tensors["stages.primary.conv.weight"] *= 100  # for different images to have different classes
        return Checkpoint(spec, tensors, data_spec("mnist"), {})
    found = read_checkpoint(path)[0]
    return Checkpoint(found.model.without_decoder(), encoder_tensors(found.network()), found.data, {})


def images(path: Path | None, count: int, split: Split = "validation") -> Tensor:
    """Give the first images of a data set, or draw patches, uint8."""
    if path is None:
        seed = 0 if split == "train" else 1
        patches = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
        return patches.repeat_interleave(7, 2).repeat_interleave(7, 3).to(torch.uint8)
    spec = trained(path).data
    assert spec is not None
    return load_split(spec, split, download=False).pixels[:count]


if __name__ == "__main__":
    raise SystemExit(main())
