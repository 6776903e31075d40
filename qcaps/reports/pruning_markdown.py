"""The report of a pruning as Markdown, short enough for the job summary of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.markdown import CHARACTER_LIMIT, ROW_LIMIT
from qcaps.reports.markdown_table import escaped, markdown_table, percent, points
from qcaps.reports.pruning import Change, LayerChange, PruningReport, Seen, Timed

Row = Sequence[str]

FINALIST_HEAD = ("candidate", "score", "recalibrated", "fine-tuned", "epoch", "")


def pruning_markdown(report: PruningReport) -> str:
    """Write a report: what became of the network first, then its costs, its widths and how they came about."""
    parts = [
        f"# Pruned\n\n{report.message}\n",
        *(f"> **Warning:** {escaped(warning)}\n" for warning in report.warnings),
        _section("Accuracy", _accuracy_head(report), _accuracy_rows(report)),
        _section("Cost of one image", ("", "before", "after", "kept"), _cost_rows(report.cost)),
        *_latency(report),
        _widths(report),
        _layers(report),
        _section(
            "Finalists", ("candidate", "score", "recalibrated", "fine-tuned", "epoch", ""), _finalist_rows(report)
        ),
        _section("Fine-tuning", ("", ""), _plain_rows(report.finetuning)),
        _section("How it was found", ("", ""), _plain_rows(_search_facts(report))),
        _section("Inputs and versions", ("", ""), _plain_rows(_inputs(report))),
    ]
    text = "\n".join(parts)
    return text if len(text) <= CHARACTER_LIMIT else text[: CHARACTER_LIMIT - 40] + "\n\nCut; see report.json.\n"


def _section(title: str, head: Row, rows: Iterable[Row]) -> str:
    return f"## {title}\n\n{markdown_table(head, rows)}"


def _accuracy_head(report: PruningReport) -> Row:
    first = report.milestones[0]
    heads = [f"{seen.score.images:,} {seen.score.split} images" for seen in (first.validation, first.test)]
    return ("", *(cell for head in heads for cell in (head, "lost / gained", "loss")), "test, drop at most at 95 %")


def _accuracy_rows(report: PruningReport) -> Iterator[Row]:
    for milestone in (*report.milestones, report.by_chance):
        bound = "" if milestone.test.comparison is None else points(milestone.test.comparison.bound)
        yield milestone.stand, *_seen_cells(milestone.validation), *_seen_cells(milestone.test), bound


def _seen_cells(seen: Seen) -> Row:
    low, high = (100 * end for end in seen.score.interval)
    flips = "" if seen.comparison is None else f"{seen.comparison.lost} / {seen.comparison.gained}"
    return f"{percent(seen.score.accuracy)} ({low:.2f} to {high:.2f})", flips, f"{seen.loss:.5f}"


def _cost_rows(cost: Mapping[str, Change]) -> Iterator[Row]:
    for name, change in cost.items():
        sizes = (change.before, change.after)
        texts = map(format_size, sizes) if "bytes" in name else (f"{size:,}" for size in sizes)
        yield name, *texts, percent(change.kept)


def _latency(report: PruningReport) -> Iterator[str]:
    """Show the times, which belong to the run."""
    timed = (report.run or {}).get("latency")
    if isinstance(timed, Sequence):
        head = ("images in a batch", "before", "after", "kept", "device", "threads")
        yield _section("Latency, median and range", head, (_latency_row(Timed(**one)) for one in timed))


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


def _widths(report: PruningReport) -> str:
    rows = [(w.unit, str(w.before), str(w.kept), percent(w.kept / w.before)) for w in report.widths]
    uncut = [w.unit for w in report.widths if w.kept == w.before]
    said = f"\nUncut: {', '.join(uncut)}.\n" if uncut else ""
    return _section("Kept widths", ("unit", "before", "after", "kept"), rows[:ROW_LIMIT]) + said


def _layers(report: PruningReport) -> str:
    head, left = ("layer", "MACs", "parameters", "activations"), len(report.layers) - ROW_LIMIT
    said = f"\n{left} more rows in report.json\n" if left > 0 else ""
    return _section("Layers", head, map(_layer_row, report.layers[:ROW_LIMIT])) + said


def _layer_row(layer: LayerChange) -> Row:
    changes = (layer.macs, layer.parameters, layer.activation_bytes)
    return layer.name, *(f"{change.before:,} → {change.after:,}" for change in changes)


def _finalist_rows(report: PruningReport) -> Iterator[Row]:
    scores = {row.number: row.score for row in report.search.ranked}
    for row in report.finalists:
        shares = (percent(correct / row.images) for correct in (row.recalibrated_correct, row.correct))
        yield str(row.number), f"{scores[row.number]:.6g}", *shares, str(row.best_epoch), "winner" if row.won else ""


def _search_facts(report: PruningReport) -> Mapping[str, object]:
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


def _inputs(report: PruningReport) -> Mapping[str, object]:
    chain = {"first of the chain": report.first["file"], "first of the chain, sha256": report.first["sha256"]}
    return {**report.inputs, **chain, **report.versions}


def _plain_rows(facts: Mapping[str, object]) -> list[Row]:
    return [(escaped(name.replace("_", " ")), escaped(value)) for name, value in facts.items()]
