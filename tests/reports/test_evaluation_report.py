from __future__ import annotations

import dataclasses

from toy_reports import toy_images

from qcaps.evaluation.cost import StageCost
from qcaps.evaluation.latency import Latency
from qcaps.reports.evaluation import ClassScore, Evaluation, evaluation_lines

EVALUATION = Evaluation(
    file="runs/a/satisfied.pt",
    sha256="ab" * 32,
    kind="artifact",
    model="efficient-capsnet",
    dataset="digits",
    split="test",
    note="",
    images=360,
    correct=351,
    accuracy=0.975,
    interval=(0.9532, 0.9867),
    per_class=(ClassScore("zero", 36, 36), ClassScore("one", 36, 33), ClassScore("none", 0, 0)),
    predictions_sha256="cd" * 32,
    parameters=161_824,
    macs=62_431_232,
    stages=(StageCost("conv1", 832, 460_800, 18_432, ((32, 24, 24),)),),
    weight_bytes=81_250,
    file_bytes=1_090_500,
    facts=toy_images(),
)


def test_the_first_line_says_what_was_scored_on_what() -> None:
    first = evaluation_lines(EVALUATION, ())[0]
    assert first == "runs/a/satisfied.pt: artifact, efficient-capsnet on digits test"


def test_the_figures_stand_on_a_line_each() -> None:
    assert evaluation_lines(EVALUATION, ())[1:] == [
        "  accuracy     97.50 % (351 of 360; 95 %: 95.32 to 98.67)",
        "  per class    zero 100.00  one 91.67  none 0.00",
        "  parameters   161,824",
        "  MACs         62,431,232 per image",
        "  weights      81.250 kB",
        "  file         1.091 MB",
    ]


def test_what_is_to_be_said_of_the_images_stands_beside_the_accuracy() -> None:
    lines = evaluation_lines(dataclasses.replace(EVALUATION, note="JPEG q75 copy"), ())
    assert lines[1] == "  accuracy     97.50 % (351 of 360; 95 %: 95.32 to 98.67); JPEG q75 copy"


def test_latency_is_told_of_one_image_and_of_a_batch() -> None:
    timed = (Latency(1, 7, 2.345, 426.4), Latency(200, 7, 156.0, 1282.05))
    assert evaluation_lines(EVALUATION, timed)[-2:] == [
        "  latency      2.35 ms for one image (426 images/s)",
        "  latency      156.00 ms for 200 images (1,282 images/s)",
    ]


def test_lines_follow_the_evaluation() -> None:
    other = dataclasses.replace(EVALUATION, kind="checkpoint", correct=0, accuracy=0.0, interval=(0.0, 0.0106))
    lines = evaluation_lines(other, ())
    assert ": checkpoint, " in lines[0]
    assert lines[1] == "  accuracy     0.00 % (0 of 360; 95 %: 0.00 to 1.06)"
