from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from qcaps.config import PruneConfig, configure
from qcaps.errors import InfeasibleError
from qcaps.evaluation.cost_model import cost_model
from qcaps.pruning.latency_table import LatencyTable, work_of
from qcaps.verbs import prune_latency
from qcaps.verbs.prune_job import make_job
from qcaps.verbs.prune_latency import latency_budget, timed

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Let layers take a nanosecond for a unit of work, and whole networks twice the sum; note what was measured."""
    noted = []

    def table(spec, model, images, *, clock):
        noted.append("table")
        work = np.stack([np.zeros_like(work_of(model, model.vector({}))), work_of(model, model.vector({}))], 1)
        work[-1] = [0, 1]  # nothing between the layers
        milliseconds = work * [0, 1] / 1e6
        milliseconds[-1] = 0
        return LatencyTable(model, work, milliseconds, milliseconds.sum())

    def network(spec, images, *, clock):
        noted.append(len(images))
        whole = work_of(cost_model(spec), cost_model(spec).vector({}))
        return 2 * whole[-1] / 1e6

    monkeypatch.setattr(prune_latency, "latency_table", table)
    monkeypatch.setattr(prune_latency, "measured_latency", network)
    return noted


def job_of(checkpoint, kept=0.8, **options):
    return make_job(checkpoint, configure(PruneConfig, {"latency": kept, "latency_batch": 7, **options}))


def test_a_table_is_corrected_once_by_a_network_of_about_the_right_size(tiny_checkpoint, measured, tmp_path):
    found = latency_budget(job_of(tiny_checkpoint), tmp_path / "latency.json", CPU)
    costs = cost_model(job_of(tiny_checkpoint).source.model)
    assert found.full == pytest.approx(work_of(costs, costs.vector({}))[-1] / 1e6)
    assert found.cost(costs.vector({})) == pytest.approx(2 * found.full)
    assert measured == ["table", 7]


def test_a_continued_search_takes_what_was_measured_before(tiny_checkpoint, measured, tmp_path):
    job, path = job_of(tiny_checkpoint), tmp_path / "latency.json"
    first, again = (latency_budget(job, path, CPU) for _ in range(2))
    narrow = job.costs.vector({"conv2.channels": 3, "primary.dims": 5})
    assert again.cost(narrow) == first.cost(narrow)
    assert measured == ["table", 7]


@pytest.mark.parametrize("change", [{"kept": 0.9}, {"latency_batch": 8}, {"fresh": True}])
def test_another_question_is_measured_anew(tiny_checkpoint, measured, tmp_path, change):
    path = tmp_path / "latency.json"
    latency_budget(job_of(tiny_checkpoint), path, CPU)
    latency_budget(job_of(tiny_checkpoint, **change), path, CPU)
    assert measured.count("table") == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json"])
def test_a_damaged_table_is_measured_anew(tiny_checkpoint, measured, tmp_path, text):
    (tmp_path / "latency.json").write_text(text)
    latency_budget(job_of(tiny_checkpoint), tmp_path / "latency.json", CPU)
    assert measured == ["table", 7]


def test_a_table_of_another_shape_is_measured_anew(tiny_checkpoint, measured, tmp_path):
    path = tmp_path / "latency.json"
    latency_budget(job_of(tiny_checkpoint), path, CPU)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"work": told["work"][1:]}))
    latency_budget(job_of(tiny_checkpoint), path, CPU)
    assert measured.count("table") == 2


def test_a_time_that_no_network_reaches_is_refused(tiny_checkpoint, measured, tmp_path):
    with pytest.raises(InfeasibleError, match="of the latency: the narrowest keeps"):
        latency_budget(job_of(tiny_checkpoint, 0.01), tmp_path / "latency.json", CPU)


def test_the_times_of_a_batch_before_and_after_are_taken_in_turns(tiny_checkpoint, monkeypatch):
    now, ran = [0.0], []

    def network(spec, images):
        def forward(pixels):
            assert pixels.shape == (5, 1, 28, 28)
            ran.append(spec.conv_channels[1])
            now[0] += spec.conv_channels[1] / 1000 * (10 if len(ran) <= 4 else 1)  # slow at first

        return forward

    monkeypatch.setattr(prune_latency, "blank_network", network)
    monkeypatch.setattr(prune_latency, "clock_on", lambda device: lambda: now[0])
    found = timed(job_of(tiny_checkpoint).source.model, {"conv2.channels": 3}, 5, CPU)
    assert ran == [8, 3] * 9
    assert [found.before_ms, *found.before_range_ms] == pytest.approx([8.0] * 3)
    assert [found.after_ms, *found.after_range_ms] == pytest.approx([3.0] * 3)
    assert (found.batch_size, found.device) == (5, "cpu")
