"""A user's own rule: njit functions do exactly what built-in rules do, and mistakes end in an error."""

import numba
import numpy as np
import pytest

from qmodel.errors import InputError
from qmodel.policies import CHUNKS, Compiled, Disaggregated, EarliestCompletion, Route
from qmodel.policies.estimates import DECODE, PREFILL, execution_s, limit_s, schedule_s, transfer_s
from qmodel.scenario import SLO, Requests
from qmodel.simulation import Fault, Signals, simulate

from .scenes import chat_requests, cluster

TARGET = cluster(bandwidth_gb_s=4.0)
REQUESTS = chat_requests(3000, 0.95, TARGET, seed=11)
FEW = Requests.from_arrays(REQUESTS.arrival_s[:300], REQUESTS.prompt_tokens[:300], REQUESTS.output_tokens[:300])
HALF = 0.5 * REQUESTS.span_s
CONDITIONS = {
    "as it is": {},
    "stale signals": {"signals": Signals(observation_interval_s=0.2)},
    "a fault": {"faults": [Fault(kind="down", pool="prefill", instance=1, from_s=HALF, until_s=HALF + 5.0)]},
}


@numba.njit
def least_work(state, request, parameters):
    return PREFILL, np.argmin(state.prefill_work_s), 0.0


@numba.njit
def earliest(state, request, parameters):
    best, at_prefill = 0, np.inf
    for i in range(len(state.prefill_work_s)):
        ready = state.prefill_work_s[i] + execution_s(state, i, request)
        total = max(ready, state.link_free_s[i] - state.time_s) + transfer_s(state, i, request)
        if total < at_prefill:
            best, at_prefill = i, total
    host, at_decode, own = -1, np.inf, 0.0
    for j in range(len(state.batch)):
        estimate = schedule_s(state, j, request, CHUNKS, limit_s(state, j, request, 1.0))
        if estimate < 0.0:
            continue
        ready = estimate + (state.deflected_work_s[j] if state.hosting[j] else state.step_rest_s[j])
        if ready < at_decode:
            host, at_decode, own = j, ready, estimate
    if host >= 0 and parameters[0] * at_decode < at_prefill:
        return DECODE, host, own
    return PREFILL, best, 0.0


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    ("mine", "built_in"),
    [
        (Compiled(decide=least_work), Disaggregated()),
        (Compiled(decide=earliest, parameters=[1.0]), EarliestCompletion()),
        (Compiled(decide=earliest, parameters=[1.5]), EarliestCompletion(margin=1.5)),
    ],
    ids=["least work", "earliest", "earliest 1.5"],
)
def test_a_compiled_rule_does_what_the_built_in_does(mine, built_in, condition):
    ours, theirs = (simulate(TARGET, REQUESTS, SLO(), policy, **CONDITIONS[condition]) for policy in (mine, built_in))
    for name, column in theirs.columns.items():
        assert ours.columns[name].tobytes() == column.tobytes(), name
    assert built_in == Disaggregated() or 0.02 < theirs.deflected_share < 0.98


class Plain:
    """The slow form of `EarliestCompletion`: only its `decide`."""

    name = "plain"

    def decide(self, state, request):
        """Ask the built-in object."""
        return EarliestCompletion().decide(state, request)


def test_a_plain_object_does_what_the_built_in_does():
    ours, theirs = (
        simulate(TARGET, FEW, SLO(), policy, warmup=0).columns for policy in (Plain(), EarliestCompletion())
    )
    assert ours["deflected"].tolist() == theirs["deflected"].tolist()
    np.testing.assert_allclose(ours["finish_s"], theirs["finish_s"], rtol=1e-12)
    assert ours["deflected"].any()


def test_what_a_compiled_rule_sees_is_what_a_plain_one_sees():
    seen = []

    class Watching:
        """Route by least work, and note what is seen."""

        name = "watching"

        def decide(self, state, request):
            """Deflect every fifth prompt."""
            seen.append(state.prefill_work_s.sum() + 10 * state.deflected_work_s.sum() + state.context_tokens.sum())
            if request.prompt_tokens % 5 == 0:
                return Route(pool="decode", instance=1, host_s=0.25)
            return Route(pool="prefill", instance=int(np.argmin(state.prefill_work_s)))

    simulate(TARGET, FEW, SLO(), Watching())
    ours = simulate(TARGET, FEW, SLO(), Compiled(decide=summing, parameters=seen))
    assert ours.count == len(seen)


@numba.njit
def summing(state, request, parameters):
    here = state.prefill_work_s.sum() + 10 * state.deflected_work_s.sum() + state.context_tokens.sum()
    if np.abs(parameters - here).min() > 1e-9 * max(1.0, here):
        return PREFILL, -1, 0.0  # refused: the plain rule never saw this state
    if request.prompt_tokens % 5 == 0:
        return DECODE, 1, 0.25
    return PREFILL, np.argmin(state.prefill_work_s), 0.0


@numba.njit
def as_told(state, request, parameters):
    if parameters[0] < 0:
        raise ValueError("parameters below 0")
    return int(parameters[0]), int(parameters[1]), parameters[2] / parameters[3]


@numba.njit
def not_a_route(state, request, parameters):
    return state.no_such_field


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ((0, 2, 0, 1), r"\(0, 2, 0\) for request 0"),
        ((1, 2, 0, 1), r"\(1, 2, 0\)"),
        ((0, -1, 0, 1), r"\(0, -1, 0\)"),
        ((2, 0, 0, 1), r"\(2, 0, 0\)"),
        ((1, 0, -1, 1), r"\(1, 0, -1\)"),
    ],
)
def test_wrong_answers_are_refused(told, says):
    with pytest.raises(InputError, match=says):
        simulate(TARGET, REQUESTS, SLO(), Compiled(decide=as_told, parameters=told))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_rule_that_raises_ends_the_run():
    with pytest.raises(InputError, match="it raised"):
        simulate(TARGET, REQUESTS, SLO(), Compiled(decide=as_told, parameters=[-1, 0, 0, 1]))


def test_a_rule_that_does_not_compile_is_refused():
    with pytest.raises(InputError, match="no_such_field"):
        simulate(TARGET, REQUESTS, SLO(), Compiled(decide=not_a_route))


@pytest.mark.parametrize(
    "options",
    [{"decide": min}, {"parameters": [np.nan]}, {"parameters": [[1.0]]}, {"beta": 0.0}],
)
def test_malformed_options_are_refused(options):
    with pytest.raises(InputError, match="Compiled"):
        Compiled(**{"decide": least_work} | options)
