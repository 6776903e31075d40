"""How a search went, what it spent, and how it compares with others under the same promises."""

from __future__ import annotations

from qcaps.models.network import CapsuleNetwork
from qcaps.quantization.search.sequential import blocks_of
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Found, Task
from qcaps.reports.search_facts import SearchFacts, SearchRow
from qcaps.reports.sizes import Sizes, trial_sizes


def search_facts(
    name: str, task: Task, found: Found, ledger: Ledger, *, folded: bool, prepared: bool, evaluation_path: str
) -> SearchFacts:
    """Describe a search.

    Parameters
    ----------
    name, task, found, ledger
        Its registry name, what it was given, what it found and what it spent.
    folded
        Whether batch norms were folded into the weights.
    prepared
        Whether channels were balanced and biases corrected.
    evaluation_path
        How candidates were evaluated.
    """
    subject, images = task.subject, len(task.bench.images)
    return SearchFacts(
        strategy=name,
        rounding=subject.rounding,
        scales="channel" if subject.per_channel else "tensor",
        seeds=subject.seeds,
        plans_tried=len(found.tried),
        image_forwards=ledger.image_forwards,
        without_rejection=ledger.without_rejection(images),
        whole=_without_memory(task, ledger),
        sequential=sequential_image_forwards(subject, images),
        stopped_early=found.stopped,
        evaluation_path=evaluation_path,
        batch_norm_folded=folded,
        prepared=prepared,
        details=found.details,
    )


def sequential_image_forwards(subject: Subject, images: int) -> int:
    """Count what the sequential algorithm of Q-CapsNets needs at least, if it remembers nothing.

    Notes
    -----
    With L blocks, R of them with a routing of several passes, it evaluates the whole split 9 + 2L + 2R times when the
    budget leaves some of the tolerance, and once more for every further step down. Every seed counts.

    References
    ----------
    Marchisio et al., "Q-CapsNets: A Specialized Framework for Quantizing Capsule Networks", 2020, algorithm 1.
    """
    network: CapsuleNetwork = subject.network
    blocks = blocks_of(network.stages, subject.sites)
    evaluations = 9 + 2 * len(blocks) + 2 * sum(block.iterated for block in blocks)
    return evaluations * images * len(subject.seeds)


def search_row(name: str, task: Task, found: Found, ledger: Ledger, in_float: Sizes) -> SearchRow | None:
    """Describe a search for the comparison; None if it found nothing at all.

    Parameters
    ----------
    name, task, found, ledger
        As for :func:`search_facts`.
    in_float
        Of the network as it was trained.
    """
    trial = found.satisfied or found.accuracy or found.memory
    if trial is None:
        return None
    sizes, first = trial_sizes(trial), trial.measurements[0]
    return SearchRow(
        name=name,
        rounding=task.subject.rounding,
        satisfied=found.satisfied is not None,
        weight_bits=sizes.weight_bits,
        activation_bits=sizes.array_bits,
        file_bytes=len(trial.file),
        payload_bytes=sizes.weights,
        weight_ratio=in_float.weights / sizes.weights,
        activation_bytes=sizes.arrays,
        activation_ratio=in_float.arrays / sizes.arrays,
        search_accuracy=first.accuracy,
        net_losses=trial.verdict.lost - trial.verdict.gained,
        image_forwards=ledger.image_forwards,
        without_rejection=ledger.without_rejection(len(task.bench.images)),
        whole=_without_memory(task, ledger),
    )


def _without_memory(task: Task, ledger: Ledger) -> int:
    """Count what whole evaluations would have cost had every test been made anew."""
    return ledger.extra + ledger.tests * len(task.subject.seeds) * len(task.bench.images)
