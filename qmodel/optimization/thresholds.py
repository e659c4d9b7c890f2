"""Stage 2, closed-form thresholds: one step of policy improvement on the static split."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qmodel.optimization.bins import WorkloadLike, transfer_part_s
from qmodel.optimization.chunks import CHUNKS, NO_SCHEDULE_S
from qmodel.optimization.feasibility import Scaled, slowest_state
from qmodel.optimization.split import StaticSplit
from qmodel.optimization.tables import rule_tables, table_lengths, table_states
from qmodel.policies.rule import Binding, Order, ThresholdRule
from qmodel.scenario import SLO, Cluster

__all__ = ["backlog_price_per_s", "harm_weight", "threshold_rule", "threshold_s", "thresholds_s"]

FloatArray = npt.NDArray[np.float64]

# Late binding: most deflected prompt tokens that wait at a decode instance, and the weight of the relief of those
# behind in whether to pull; both from the panels (docs/decisions/0051).
MAX_WAITING_TOKENS = 2000
RELIEF_WEIGHT = 1.0
# An instance whose batch is this close to full hosts nothing: prompts would wait there for a slot (0052).
MAX_BATCH_SHARE = 0.95
# Dispatch: from this offered load on, decode backlog is held below this share of the TTFT SLO (docs/decisions/0051).
VALUED_LOAD = 0.85
DEADLINE_SHARE = 0.7
# Order "aged" when it is asked for; no objective chooses it (0051, 0052).
AGEING_PER_S = 0.1
# What a second of delay of one resident is worth in seconds of TTFT (docs/decisions/0056), and how much more where
# decode could not lose an instance: without it a step beside no chunk already takes this share of the TBT SLO (0071).
HARM_WEIGHT: dict[Binding, float] = {"dispatch": 0.02, "late": 0.01}
TIGHT_HARM, TIGHT_SHARE = 1.5, 0.85
# While a decode instance is down or slow, from the fault cells of the evaluation (0071): factor on the harm weight,
# TTFT SLOs after which a request goes first, and how many times its law's time a slow instance takes.
FAULT_HARM = 20.0
PATIENCE_SLOS = 4.0
SLOW_FACTOR = 1.5


def backlog_price_per_s(rate_per_s: float, load: float) -> float:
    """Return g = lam/(2*(1 - rho)), the relative value of backlog squared in M/G/1 FCFS; *exact* for Poisson arrivals.

    v(w) = lam*w^2/(2*(1 - rho)) (Hyytia, Penttinen, Aalto, EJOR 217, 2012), so admitting work s at backlog w costs
    a(w, s) = w + s + g*((w + s)^2 - w^2).

    Parameters
    ----------
    rate_per_s : float
        lam, arrivals to the instance [1/s].
    load : float
        rho of the instance, < 1.

    Returns
    -------
    float
        g [1/s].

    Examples
    --------
    >>> backlog_price_per_s(5.0, 0.5)
    5.0
    """
    return rate_per_s / (2.0 * (1.0 - load))


def threshold_s(
    s: npt.ArrayLike,
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    v: npt.ArrayLike,
    price_prefill_per_s: float,
    price_decode_per_s: float,
    harm_s: npt.ArrayLike = 0.0,
) -> FloatArray:
    """Return theta, the prefill backlog above which a prompt is deflected; *exact* solution of a_P + x = a_D + harm.

    theta = (v + h + g_D*(2*v*h + h^2) + harm - s - x - g_P*s^2) / (1 + 2*g_P*s)

    Parameters
    ----------
    s, x, h : array_like
        Prefill work, transfer and host time of the prompt [s].
    v : array_like
        Deflected work that waits at the decode instance [s].
    price_prefill_per_s, price_decode_per_s : float
        g_P and g_D [1/s].
    harm_s : array_like
        Weighted delay of the residents [s].

    Returns
    -------
    ndarray
        theta [s]; below 0 the prompt is always deflected.

    Examples
    --------
    >>> float(threshold_s(0.1, 0.0, 0.3, 0.0, 0.0, 0.0)).__round__(3)
    0.2
    """
    s, x, h, v = (np.asarray(value, dtype=float) for value in (s, x, h, v))
    g_P, g_D = price_prefill_per_s, price_decode_per_s
    decode = v + h + g_D * (2 * v * h + h**2) + np.asarray(harm_s, dtype=float)
    return np.asarray((decode - s - x - g_P * s**2) / (1 + 2 * g_P * s))


def harm_weight(binding: Binding, cluster: Cluster, workload: WorkloadLike, slo: SLO) -> float:
    """Return c_R, what a second of delay of one resident is worth in seconds of TTFT; *empirical*.

    Half as much again where the decode pool could not lose an instance: with the others at their mean state, a step
    without hosted chunk would take most of the TBT SLO.

    Parameters
    ----------
    binding : {"dispatch", "late"}
        When the decision is taken: late binding, which sees the queue when it decides, needs a smaller weight.
    cluster : Cluster
        Its decode pool.
    workload : Workload
        Rate and lengths.
    slo : SLO
        `tbt_s` bounds each step.

    Returns
    -------
    float
        c_R.
    """
    weight, left = HARM_WEIGHT[binding], cluster.decode_count - 1
    if left == 0:  # nobody is left to protect
        return weight
    state = slowest_state(cluster, Scaled(workload, cluster.decode_count / left))
    return weight * TIGHT_HARM if state.step_s >= TIGHT_SHARE * slo.tbt_s else weight


def threshold_rule(
    cluster: Cluster,
    workload: WorkloadLike,
    slo: SLO,
    split: StaticSplit,
    binding: Binding = "dispatch",
    order: Order = "fcfs",
    *,
    chunks: tuple[int, ...] = CHUNKS,
    value_deadlines: bool | None = None,
) -> ThresholdRule:
    """Return the deflection rule that one step of policy improvement on the static split gives.

    Parameters
    ----------
    cluster : Cluster
        Pools and link.
    workload : Workload
        Gives the longest prompt.
    slo : SLO
        `tbt_s` bounds each hosted step.
    split : StaticSplit
        Stage 1.
    binding : {"dispatch", "late"}
        When the decision is taken.
    order : {"fcfs", "spf", "aged", "due"}
        Order of the prefill queue.
    chunks : tuple of int
        Candidate chunks [tokens], largest first.
    value_deadlines : bool, optional
        Whether a decode instance is considered only where it ends a prompt within 0.7 of the TTFT SLO, so that
        backlog there never makes every request late; by default when the offered prefill load is above 0.85, where
        bursts outlast the SLO.

    Returns
    -------
    ThresholdRule
        Prices and tables.
    """
    longest = float(np.max(np.asarray(workload.lengths()[0], dtype=float)))
    lengths = table_lengths(longest, cluster.max_num_batched_tokens)
    smallest = min(cluster.decode_calibrations, key=lambda c: c.kv_capacity_tokens)
    batches, contexts = table_states(smallest, cluster.max_num_seqs)
    valued = split.offered_load > VALUED_LOAD if value_deadlines is None else value_deadlines
    return ThresholdRule(
        binding=binding,
        order=order,
        price_prefill_per_s=backlog_price_per_s(split.rate_prefill_per_s, split.load_prefill),
        price_decode_per_s=backlog_price_per_s(split.rate_decode_per_s, split.load_decode),
        harm_weight=harm_weight(binding, cluster, workload, slo),
        fault_harm=FAULT_HARM,
        patience_s=PATIENCE_SLOS * slo.ttft_s,
        slow_factor=SLOW_FACTOR,
        chunks=chunks,
        tbt_limit_s=slo.tbt_s,
        max_waiting_tokens=MAX_WAITING_TOKENS,
        max_batch=math.ceil(MAX_BATCH_SHARE * cluster.max_num_seqs),
        ageing_per_s=AGEING_PER_S,
        relief_weight=RELIEF_WEIGHT,
        deadline_s=DEADLINE_SHARE * slo.ttft_s if valued else 0.0,
        lengths=lengths,
        batches=batches,
        contexts=contexts,
        work_s=np.asarray(cluster.work_s(lengths)),
        execution_s=np.asarray(cluster.execution_s(lengths)),
        transfer_s=transfer_part_s(cluster, lengths),
        **rule_tables(cluster, lengths, batches, contexts, slo, chunks),
    )


def thresholds_s(
    rule: ThresholdRule,
    prompt_tokens: npt.ArrayLike,
    decode_backlog_s: npt.ArrayLike,
    batch: float,
    context_tokens: float,
) -> FloatArray:
    """Return theta(L, v) at one decode state, from the rule's tables by linear interpolation.

    Parameters
    ----------
    rule : ThresholdRule
        Prices and tables.
    prompt_tokens : array_like
        Prompt lengths L [tokens].
    decode_backlog_s : array_like
        Deflected work v that waits at the decode instance [s]; broadcasts with `prompt_tokens`.
    batch, context_tokens : float
        Decode state B and K [tokens].

    Returns
    -------
    ndarray
        theta [s]: seconds of prefill backlog above which the prompt is deflected; inf where no chunk is TBT-safe, the
        batch is full, or the cache.
    """
    L, v = np.broadcast_arrays(np.asarray(prompt_tokens, dtype=float), np.asarray(decode_backlog_s, dtype=float))
    s, x = (_along_lengths(rule, table, L) for table in (rule.work_s, rule.transfer_s))
    h, harm = (_along_lengths(rule, at_state(rule, t, batch, context_tokens), L) for t in (rule.host_s, rule.harm_s))
    theta = threshold_s(s, x, h, v, rule.price_prefill_per_s, rule.price_decode_per_s, rule.harm_weight * harm)
    late = (rule.deadline_s > 0) & (v + h > rule.deadline_s)
    full = (context_tokens + L > rule.contexts[-1]) | (0 < rule.max_batch <= batch)
    return np.where((h >= NO_SCHEDULE_S / 2) | late | full, np.inf, theta)


def at_state(rule: ThresholdRule, table: FloatArray, batch: float, context_tokens: float) -> FloatArray:
    """Return a table's column at one decode state, bilinear and clamped at its edges; shape (n_L,).

    Parameters
    ----------
    rule : ThresholdRule
        Gives the grid.
    table : ndarray, shape (n_L, n_B, n_K)
        `host_s` or `harm_s`.
    batch, context_tokens : float
        Decode state B and K [tokens].

    Returns
    -------
    ndarray
        One value per prompt length.
    """
    i, f = _cell(rule.batches, batch)
    j, g = _cell(rule.contexts, context_tokens)
    low = (1 - g) * table[:, i, j] + g * table[:, i, j + 1]
    high = (1 - g) * table[:, i + 1, j] + g * table[:, i + 1, j + 1]
    return np.asarray((1 - f) * low + f * high)


def _cell(grid: FloatArray, value: float) -> tuple[int, float]:
    i = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    return i, float(np.clip((value - grid[i]) / (grid[i + 1] - grid[i]), 0.0, 1.0))


def _along_lengths(rule: ThresholdRule, column: FloatArray, L: FloatArray) -> FloatArray:
    """Interpolate linearly in length; beyond the last length extrapolate its slope."""
    grid = rule.lengths
    i = np.clip(np.searchsorted(grid, L, side="right") - 1, 0, len(grid) - 2)
    f = (L - grid[i]) / (grid[i + 1] - grid[i])
    return np.asarray(column[i] + f * (column[i + 1] - column[i]))
