from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from toy_search import made_up_scores, toy_bench, toy_subject, toy_task

from qcaps.errors import StoppedError
from qcaps.evaluation.ends import INTERRUPT, Halt
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.refinements import win_back
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Found, Task

Train = Callable[[Subject, BitPlan], dict[str, Tensor]]


@pytest.fixture
def task() -> Iterator[Task]:
    """Give a search whose best plan so far has 8 bits everywhere, and in which many images may be lost."""
    with toy_bench() as bench:
        subject = toy_subject()
        task = toy_task(bench, subject, allowed=30)
        assert task.judge(dict.fromkeys(subject.sites, 8), "found")
        yield task


def found_by(task: Task) -> Found:
    widths = {group.name: task.widths[group.sites[0]] for group in task.groups}
    return Found(None, None, None, tuple(task.tried), scores=made_up_scores(task.groups, widths))


def parameters(subject: Subject) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in subject.network.named_parameters()}


def test_a_trained_network_whose_smaller_plan_passes_is_kept(task: Task) -> None:
    plans: list[BitPlan] = []

    def train(subject: Subject, plan: BitPlan) -> dict[str, Tensor]:
        plans.append(plan)
        return {name: 1.001 * value for name, value in parameters(subject).items()}

    won = win_back(task, found_by(task), train)
    assert won is not task
    assert won.objective(won.best) < task.objective(task.best)
    assert won.subject.plan(won.best) == plans[-1]
    sizes = [sum(fmt.bits for fmt in (*plan.weights.values(), *plan.arrays.values())) for plan in plans]
    assert len(sizes) > 1
    assert sizes == sorted(set(sizes), reverse=True)  # smaller and smaller
    for name, value in parameters(won.subject).items():
        assert torch.equal(value, 1.001 * parameters(task.subject)[name])


def test_a_network_that_training_made_worse_is_not_and_nothing_smaller_is_tried(task: Task) -> None:
    task = dataclasses.replace(task, allowed=5)
    plans: list[BitPlan] = []

    def train(subject: Subject, plan: BitPlan) -> dict[str, Tensor]:
        plans.append(plan)
        return {name: torch.zeros_like(value) for name, value in parameters(subject).items()}

    assert win_back(task, found_by(task), train) is task
    assert len(plans) == 1  # a smaller one would be worse still


def test_an_interruption_of_the_training_ends_the_search(task: Task) -> None:
    def train(subject: Subject, plan: BitPlan) -> dict[str, Tensor]:
        raise StoppedError("interrupted while fine-tuning")

    with pytest.raises(Halt) as halted:
        win_back(task, found_by(task), train)
    assert halted.value.reason == INTERRUPT


def test_without_sensitivities_there_is_no_smaller_plan_to_train(task: Task) -> None:
    def train(subject: Subject, plan: BitPlan) -> dict[str, Tensor]:
        raise AssertionError("nothing is to be trained")

    assert win_back(task, Found(None, None, None, ()), train) is task
