"""From option texts to a cluster, a workload and an SLO."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmodel.cli.options import POLICIES
from qmodel.errors import InputError
from qmodel.units import format_duration, parse_bandwidth_gb_s, parse_duration_s, parse_rate_per_s

if TYPE_CHECKING:
    from qmodel.laws import Calibration
    from qmodel.scenario import SLO, Cluster, Workload

__all__ = [
    "Scenario",
    "cluster_of",
    "mismatches",
    "open_workload",
    "parse_policy",
    "resolve",
    "scaled",
]

_DEFAULTS: dict[str, Any] = {
    "cluster": "2P2D",
    "bandwidth": "25GB/s",
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 256,
    "transfer_block_tokens": 1,
    "ttft_slo": "1s",
    "tbt_slo": "60ms",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """What a command works on, with the texts it came from.

    Parameters
    ----------
    cluster, workload, slo
        Frozen inputs.
    options : dict
        Option name to the text or number used, defaults included.
    notices : tuple of str
        What was decided for the user, one line each.
    """

    cluster: Cluster
    workload: Workload
    slo: SLO
    options: dict[str, Any]
    notices: tuple[str, ...]

    def head(self, policy: str) -> dict[str, Any]:
        """Return how every command's JSON begins.

        Parameters
        ----------
        policy : str
            As the user named it.
        """
        from qmodel import __version__

        return {
            "qmodel_version": __version__,
            "scenario": self.options,
            "workload_fingerprint": self.workload.fingerprint,
            "policy": policy,
        }


def resolve(
    options: dict[str, Any],
    fallback: dict[str, Any] | None = None,
    open_with: Callable[..., Workload] | None = None,
) -> Scenario:
    """Return the scenario that flags, a configuration file and defaults mean, in this order of precedence.

    Parameters
    ----------
    options : dict
        Flags; None where not given; ``config`` names the file.
    fallback : dict, optional
        Options to use before the defaults, e.g. those a plan was made with.
    open_with : callable, optional
        In place of `open_workload`, e.g. one that keeps what it opened.

    Returns
    -------
    Scenario
        Validated inputs.

    Raises
    ------
    InputError
        When something is missing or out of range.
    """
    given = {name: value for name, value in options.items() if name != "config" and value is not None}
    if options.get("config") is not None:
        from qmodel.io.config import load_config

        given = _override(load_config(options["config"]), given)
    merged = _DEFAULTS | _override(fallback or {}, given)
    for name, example in (("model", "deepseek-v2-lite"), ("workload", "azure-conv")):
        if merged.get(name) is None:
            raise InputError(f"--{name}", "missing", remedy=f"give for example --{name} {example}")
    if merged.get("load") is not None and merged.get("rate") is not None:
        raise InputError("--load and --rate are both given", remedy="give one of the two")
    return _build(merged, open_with or open_workload)


def _override(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return `base` under `given`; load and rate exclude each other and belong to a workload, GPU and tp to a model."""
    merged = dict(base)
    if "model" in given:
        merged.pop("tp", None)
        if str(given["model"]).endswith(".json"):
            merged.pop("gpu", None)
    if "load" in given or "rate" in given or "workload" in given:
        merged.pop("load", None)
        merged.pop("rate", None)
    return merged | given


def _build(options: dict[str, Any], open_with: Callable[..., Workload]) -> Scenario:
    from qmodel.scenario import SLO

    slo = SLO(
        ttft_s=parse_duration_s(str(options["ttft_slo"]), "--ttft-slo"),
        tbt_s=parse_duration_s(str(options["tbt_slo"]), "--tbt-slo"),
    )
    calibration = _calibration(options)
    cluster = _cluster(options, calibration)
    chosen = options.get("tp") is None and calibration.tp > 1
    notices = [f"tp {calibration.tp}, the first that {calibration.model} is calibrated for"] if chosen else []
    options |= {"gpu": calibration.gpu, "tp": calibration.tp}
    workload = open_with(str(options["workload"]), *map(options.get, ("trace_format", "time_unit", "cached")))
    notices += workload.notices
    found = Scenario(cluster=cluster, workload=workload, slo=slo, options=options, notices=tuple(notices))
    return scaled(found, options.get("load"), options.get("rate"))


def cluster_of(options: Mapping[str, Any]) -> Cluster:
    """Return the cluster that options mean.

    Parameters
    ----------
    options : mapping
        Name to text or number, `model` among them, e.g. those of a plan.

    Returns
    -------
    Cluster
        Calibrated, as the options or the calibration's file say.

    Raises
    ------
    InputError
        When a value is out of range, or there is no such calibration.
    """
    merged = _DEFAULTS | dict(options)
    return _cluster(merged, _calibration(merged))


def _calibration(options: Mapping[str, Any]) -> Calibration:
    from qmodel.io.calibrations import load_calibration

    return load_calibration(str(options["model"]), options.get("gpu"), options.get("tp"))


def _cluster(options: Mapping[str, Any], calibration: Calibration) -> Cluster:
    from qmodel.scenario import Cluster

    return Cluster.parse(
        str(options["cluster"]),
        _with_named_gpus(str(options["cluster"]), calibration),
        bandwidth_gb_s=parse_bandwidth_gb_s(str(options["bandwidth"]), "--bandwidth"),
        max_num_batched_tokens=options["max_num_batched_tokens"],
        max_num_seqs=options["max_num_seqs"],
        max_prefill_seqs=options.get("max_prefill_seqs"),
        transfer_block_tokens=options["transfer_block_tokens"],
        clock_tick_s=parse_duration_s(str(tick), "--clock-tick") if (tick := options.get("clock_tick")) else 0.0,
    )


def mismatches(policy: Any, inputs: Scenario) -> list[str]:
    """Return what a plan was derived for that the scenario is not, one line each; [] for other policies.

    Parameters
    ----------
    policy : object
        From `parse_policy`.
    inputs : Scenario
        What the plan is to route.
    """
    if not hasattr(policy, "scenario_options"):
        return []
    about, cluster, lines = policy.cluster, inputs.cluster, []
    here = {c.fingerprint: c.name for c in (*cluster.prefill_calibrations, *cluster.decode_calibrations)}
    there = {entry["sha256"]: entry["name"] for entry in about["calibrations"]}
    if here.keys() != there.keys():
        names = [" and ".join(sorted(set(laws.values()))) for laws in (there, here)]
        same = " with other laws" if names[0] == names[1] else ""
        lines.append(f"the plan was derived for {names[0]}{same}, not {names[1]}")
    if about["name"] != cluster.name:
        lines.append(f"the plan was derived for {about['name']}, not {cluster.name}")
    if policy.slo != inputs.slo:
        limits = [
            f"TTFT {format_duration(s.ttft_s)} and TBT {format_duration(s.tbt_s)}" for s in (policy.slo, inputs.slo)
        ]
        lines.append(f"the plan was derived for {limits[0]}, not {limits[1]}")
    return lines


def scaled(inputs: Scenario, load: float | None, rate: str | None) -> Scenario:
    """Return a scenario whose arrivals are scaled to a load or a rate.

    Parameters
    ----------
    inputs : Scenario
        As the trace or model is.
    load : float, optional
        Load of the prefill pool.
    rate : str, optional
        E.g. ``30/s``.

    Returns
    -------
    Scenario
        The same when neither is given.

    Raises
    ------
    InputError
        When the number is not finite and > 0.
    """
    workload = inputs.workload
    if load is not None:
        if not (math.isfinite(load) and load > 0):
            raise InputError("--load", load, "finite and > 0", "give e.g. 0.9")
        workload = workload.at_load(load, inputs.cluster)
    elif rate is not None:
        workload = workload.at_rate(parse_rate_per_s(str(rate), "--rate"))
    return replace(inputs, workload=workload)


def _with_named_gpus(text: str, calibration: Calibration) -> Calibration | dict[str, Calibration]:
    """Return the calibrations of the GPU types that a cluster such as ``2P@h100+1D@a100`` names."""
    from qmodel.io.calibrations import load_calibration

    names = dict.fromkeys(re.findall(r"@([\w.-]+)", text))
    if not names:
        return calibration
    return {
        gpu: calibration if gpu == calibration.gpu else load_calibration(calibration.model, gpu, calibration.tp)
        for gpu in names
    }


def open_workload(
    text: str, trace_format: str | None = None, time_unit: str | None = None, cached: str | None = None
) -> Workload:
    """Return the workload that a built-in name or a file name means.

    Parameters
    ----------
    text : str
        What the user wrote.
    trace_format, time_unit, cached : str, optional
        How to read a trace, where it is to be other than recognised.

    Returns
    -------
    Workload
        Of a file when the text looks like one.

    Raises
    ------
    InputError
        When there is none of that name, or the file cannot be used.
    """
    from qmodel.scenario import Workload

    if any(mark in text for mark in "/\\.") or Path(text).exists():
        return Workload.from_trace(text, trace_format or "auto", cached=cached, time_unit=time_unit)  # type: ignore[arg-type] # checked inside
    given = {"--trace-format": trace_format, "--time-unit": time_unit, "--cached": cached}
    for option, value in given.items():
        if value is not None:
            raise InputError(option, repr(value), "left out with a built-in workload", "it is for trace files")
    return Workload.builtin(text)


def parse_policy(text: str, option: str = "--policy", known: str = f"{POLICIES} or a PLAN.json") -> Any:
    """Return the policy that a text names: none, kairos, earliest, static:TOKENS or a plan file.

    Parameters
    ----------
    text : str
        What the user wrote.
    option : str
        Where, for messages.
    known : str
        What that option takes, for messages.

    Returns
    -------
    object
        A policy of `qmodel.policies`, or a `Plan`.

    Raises
    ------
    InputError
        When the text names neither a policy nor a readable plan.
    """
    from qmodel import policies

    plain = {
        "none": policies.Disaggregated,
        "disaggregated": policies.Disaggregated,
        "kairos": policies.Kairos,
        "earliest": policies.EarliestCompletion,
    }
    if text in plain:
        return plain[text]()
    if text.startswith("static:"):
        tokens = text.removeprefix("static:")
        if not tokens.isdecimal() or not 0 < int(tokens) < 10**9:
            raise InputError(option, repr(text), "static:TOKENS with a whole number > 0", "e.g. static:512")
        return policies.StaticLength(max_local_prefill_tokens=int(tokens))
    if text.endswith(".json") or "/" in text:
        from qmodel.io.plan_file import load_plan

        return load_plan(text)
    raise InputError(option, repr(text), known)
