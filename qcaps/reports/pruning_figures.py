"""The figures of a pruning as rows of text, from which every page makes its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.markdown_table import percent, points
from qcaps.reports.pruning import Change, LayerChange, PruningReport, Seen, Timed

Row = Sequence[str]

COST_HEAD = ("", "before", "after", "kept")
LATENCY_HEAD = ("images in a batch", "before", "after", "kept", "device", "threads")
LAYER_HEAD = ("layer", "MACs", "parameters", "activations")
FINALIST_HEAD = ("candidate", "score", "recalibrated", "fine-tuned", "epoch", "")


def accuracy_head(report: PruningReport) -> Row:
    """Name the columns of :func:`accuracy_rows`."""
    first = report.milestones[0]
    heads = [f"{seen.score.images:,} {seen.score.split} images" for seen in (first.validation, first.test)]
    return ("", *(cell for head in heads for cell in (head, "lost / gained", "loss")), "test, drop at most at 95 %")


def accuracy_rows(report: PruningReport) -> Iterator[Row]:
    """Give a row for every network on the way, and for the one whose units were drawn."""
    for milestone in (*report.milestones, report.by_chance):
        bound = "" if milestone.test.comparison is None else points(milestone.test.comparison.bound)
        yield milestone.stand, *_seen_cells(milestone.validation), *_seen_cells(milestone.test), bound


def _seen_cells(seen: Seen) -> Row:
    low, high = (100 * end for end in seen.score.interval)
    flips = "" if seen.comparison is None else f"{seen.comparison.lost} / {seen.comparison.gained}"
    return f"{percent(seen.score.accuracy)} ({low:.2f} to {high:.2f})", flips, f"{seen.loss:.5f}"


def cost_rows(cost: Mapping[str, Change]) -> Iterator[Row]:
    """Give a row for every cost."""
    for name, change in cost.items():
        sizes = (change.before, change.after)
        texts = map(format_size, sizes) if "bytes" in name else (f"{size:,}" for size in sizes)
        yield name, *texts, percent(change.kept)


def latency_rows(report: PruningReport) -> list[Row]:
    """Give a row for every size of batch that was timed; times belong to the run."""
    timed = (report.run or {}).get("latency")
    return [_latency_row(Timed(**one)) for one in timed] if isinstance(timed, Sequence) else []


def _latency_row(timed: Timed) -> Row:
    texts = (
        f"{middle:.2f} ms ({least:.2f} to {most:.2f})"
        for middle, (least, most) in (
            (timed.before_ms, timed.before_range_ms),
            (timed.after_ms, timed.after_range_ms),
        )
    )
    kept = percent(timed.after_ms / timed.before_ms)
    return str(timed.batch_size), *texts, kept, timed.device, str(timed.threads)


def layer_row(layer: LayerChange) -> Row:
    """Give the costs of a layer before and after."""
    changes = (layer.macs, layer.parameters, layer.activation_bytes)
    return layer.name, *(f"{change.before:,} → {change.after:,}" for change in changes)


def finalist_rows(report: PruningReport) -> Iterator[Row]:
    """Give a row for every candidate that was fine-tuned."""
    scores = {row.number: row.score for row in report.search.ranked}
    for row in report.finalists:
        shares = (percent(correct / row.images) for correct in (row.recalibrated_correct, row.correct))
        yield str(row.number), f"{scores[row.number]:.6g}", *shares, str(row.best_epoch), "winner" if row.won else ""


def search_facts_rows(report: PruningReport) -> Mapping[str, object]:
    """Say how a search went, by name."""
    search, found = report.search, report.rank_correlation
    by_l1 = f" (l1 for {', '.join(search.by_l1)})" if search.by_l1 else ""
    origins = [row.origin for row in search.ranked]
    drawn = sum(origin == "drawn" for origin in origins)
    (winner,) = (row.number for row in report.finalists if row.won)
    (shares,) = (row.shares for row in search.ranked if row.number == winner)
    return {
        "targets": ", ".join(f"{kind} {kept:g}" for kind, kept in search.targets.items()) or "a strategy in a file",
        "kept as predicted": ", ".join(f"{kind} {share:.4f}" for kind, share in shares.items()),
        "counting": search.counting,
        "candidates": f"{len(origins)}, {drawn} of them drawn ({search.sampler})",
        "seed": search.seed,
        "importance": f"{search.importance}{by_l1}, {search.scope}",
        "recalibration": f"{search.recalibration}, {search.calibration.images} {search.calibration.split} images",
        "scored by": f"{search.criterion}, {search.scoring.images} {search.scoring.split} images",
        "chosen on": f"{search.choosing.images} other {search.choosing.split} images",
        "tied with the last finalist": search.tied,
        "rank correlation of score and accuracy": "no order to compare" if found is None else f"{found:+.2f}",
        "image-forwards": f"{search.image_forwards:,}",
        "stopped early": search.stopped_early or "no",
    }


def input_rows(report: PruningReport) -> Mapping[str, object]:
    """Name what a network was made from and with."""
    chain = {"first of the chain": report.first["file"], "first of the chain, sha256": report.first["sha256"]}
    return {**report.inputs, **chain, **report.versions}
