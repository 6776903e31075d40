"""What may follow a search: fewer routing iterations, and a fine-tune that wins a smaller plan back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from qcaps.errors import StoppedError
from qcaps.evaluation.ends import INTERRUPT, Halt
from qcaps.models.network import encoder_tensors, to_inference
from qcaps.models.spec import filled
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.routing_passes import with_fewer_passes
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Found, Task

# Damage of the plans that a fine-tune tries to win back, in times that of the plan that passed without one.
AMBITIONS = (2.5, 6.0, 16.0)


def drop_iterations(task: Task) -> Task:
    """Shorten the routing as long as the best plan of a task passes; give the task of the network that it leads to.

    Raises
    ------
    Halt
        If the search has to end.
    """
    while task.best is not None:
        subject = task.subject
        passes = getattr(subject.model, "routing_passes", 1) - 1
        shorter = with_fewer_passes(subject.model, subject.plan(task.best), passes)
        if shorter is None:
            break
        model, plan = shorter
        network = to_inference(filled(model, encoder_tensors(subject.network), where="a shorter routing"))
        arrays = {site: found for site, found in subject.calibration.arrays.items() if site in plan.arrays}
        calibration = dataclasses.replace(subject.calibration, arrays=arrays)
        less = dataclasses.replace(subject, model=model, network=network, calibration=calibration)
        widths = {site: task.best[site] for site in less.sites}
        allowed = {site: task.widths[site] for site in less.sites}
        candidate = dataclasses.replace(task, subject=less, widths=allowed, best=None, smallest=None, promising=[])
        if not candidate.judge(widths, f"{passes} routing passes"):
            break
        task = candidate
    return task


def win_back(task: Task, found: Found, train: Callable[[Subject, BitPlan], dict[str, Tensor]]) -> Task:
    """Fine-tune the network under smaller and smaller plans than passed so far, as long as they then pass.

    Parameters
    ----------
    task, found
        A search that is done.
    train
        Trains the network of a subject under a plan; gives its parameters by name.

    Returns
    -------
    Task
        Of the network trained for the smallest plan that passes, else the task as it was.

    Raises
    ------
    Halt
        If the search has to end.
    """
    won = task
    for widths in _smaller_plans(task, found):
        subject = task.subject.settled(task.subject.plan(widths))
        try:
            tensors = train(subject, subject.plan(widths))
        except StoppedError as error:
            raise Halt(INTERRUPT) from error
        trained = encoder_tensors(subject.network) | tensors
        network = to_inference(filled(subject.model, trained, where="a fine-tuned network"))
        # The scales stay those that the training rounded to.
        candidate = dataclasses.replace(
            task, subject=dataclasses.replace(subject, network=network), best=None, smallest=None
        )
        if not candidate.judge(widths, "fine-tuned"):
            break
        won = candidate
    return won


def _smaller_plans(task: Task, found: Found) -> list[Widths]:
    """List the plans to fine-tune, the smallest last; where nothing satisfied, the one within the budget."""
    if task.best is None:
        return [] if found.memory is None else [found.memory.widths]
    if not found.scores:
        return []
    groups = task.groups
    widths = {group.name: tuple(task.widths[group.sites[0]]) for group in groups}
    prices = Prices(task.subject, groups, widths, found.scores)
    front = prices.front(groups, task.activation_weight)
    reached = sum(found.scores[group.name][task.best[group.sites[0]]] for group in groups)
    plans: list[Widths] = []
    for ambition in AMBITIONS:
        cheapest = next((p for p in range(len(front)) if front.scores[p] <= ambition * reached), None)
        plan = None if cheapest is None else prices.spread(front.choice(cheapest))
        if plan is not None and plan not in plans and task.objective(plan) < task.objective(task.best):
            plans.append(plan)
    return [plan for plan in plans if task.fits(plan)]
