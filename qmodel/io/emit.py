"""Settings of serving systems as the files that they read: Dynamo, llm-d, TensorRT-LLM, vLLM and Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from qmodel.errors import InputError
from qmodel.io.atomic import write_text
from qmodel.scenario.plan import Plan

__all__ = ["SCHEMAS", "TARGETS", "Settings", "Target", "emit", "save_emitted"]

Target = Literal["dynamo", "llm-d", "trtllm", "vllm", "prometheus"]
TARGETS: tuple[Target, ...] = get_args(Target)
SCHEMAS = Path(__file__).parent.parent / "data" / "schemas"
# The measured P95 may differ from the predicted one by this factor before the alert fires.
ALERT_FACTOR = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The nearest policy that a system can express, with what it loses against the full plan.

    Parameters
    ----------
    target : str
        System.
    values : Mapping
        Its settings by their own names.
    notes : tuple of str
        Where each number comes from; comments of the file where the format has comments.
    loss : Mapping
        ``p95_ttft_ratio`` (to the full plan) and ``slo_attainment_lost`` (share), both simulated; empty when the target
        has no policy.
    """

    target: Target
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    loss: Mapping[str, float] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Return the notes and the loss in words."""
        lines = list(self.notes)
        if self.loss:
            ratio, lost = self.loss["p95_ttft_ratio"], 100 * self.loss["slo_attainment_lost"]
            lines.append(
                f"Predicted loss against the full plan: P95 TTFT {ratio:.2f} times the plan's, SLO attainment "
                f"{abs(lost):.1f} points {'lower' if lost >= 0 else 'higher'} (simulated on the plan's workload)."
            )
        return lines


def emit(plan: Plan, settings: Settings) -> str:
    """Return the text of a system's configuration.

    Parameters
    ----------
    plan : Plan
        Plan that the settings approximate.
    settings : Settings
        From `studies.emission.fit_settings`.

    Returns
    -------
    str
        File content: JSON for Dynamo, YAML for the others.

    Raises
    ------
    InputError
        When the target is unknown.
    """
    writers = {"dynamo": _dynamo, "llm-d": _llm_d, "trtllm": _trtllm, "vllm": _vllm, "prometheus": _prometheus}
    if settings.target not in writers:
        raise InputError("target", repr(settings.target), f"one of {', '.join(TARGETS)}")
    return writers[settings.target](plan, settings)


def save_emitted(text: str, path: str | Path) -> None:
    """Write an emitted configuration atomically.

    Parameters
    ----------
    text : str
        From `emit`.
    path : str or Path
        File to write.
    """
    write_text(path, text)


def _comments(plan: Plan, settings: Settings) -> str:
    lines = [f"qmodel {plan.qmodel_version}: {plan.title}", *settings.sentences()]
    return "".join(f"# {line}\n" for line in lines)


def _dynamo(plan: Plan, settings: Settings) -> str:
    del plan  # the format is one JSON object and has no place for a comment
    return json.dumps(dict(settings.values), indent=2) + "\n"


def _llm_d(plan: Plan, settings: Settings) -> str:
    return _comments(plan, settings) + (
        "apiVersion: llm-d.ai/v1\n"
        "kind: EndpointPickerConfig\n"
        "plugins:\n"
        "  - name: pd-decider\n"
        "    type: prefix-based-pd-decider\n"
        "    parameters:\n"
        f"      nonCachedTokens: {settings.values['nonCachedTokens']}  # fewer uncached tokens stay on decode\n"
        f"      promptTokens: {settings.values['promptTokens']}\n"
        "  - name: profile-handler\n"
        "    type: disagg-profile-handler\n"
        "    parameters:\n"
        "      deciders:\n"
        "        prefill: pd-decider\n"
        "  - type: prefill-filter\n"
        "  - type: decode-filter\n"
        "  - type: queue-scorer\n"
        "  - type: active-request-scorer\n"
        "  - type: max-score-picker\n"
        "schedulingProfiles:\n"
        "  - name: prefill\n"
        "    plugins:\n"
        "      - pluginRef: prefill-filter\n"
        "      - pluginRef: queue-scorer\n"
        "        weight: 1\n"
        "      - pluginRef: max-score-picker\n"
        "  - name: decode\n"
        "    plugins:\n"
        "      - pluginRef: decode-filter\n"
        "      - pluginRef: active-request-scorer\n"
        "        weight: 1\n"
        "      - pluginRef: max-score-picker\n"
    )


def _trtllm(plan: Plan, settings: Settings) -> str:
    return _comments(plan, settings) + (
        "# Needs `router: {type: kv_cache_aware}` under generation_servers.\n"
        "conditional_disagg_config:\n"
        f"  max_local_prefill_length: {settings.values['max_local_prefill_length']}  # uncached tokens, inclusive\n"
    )


def _vllm(plan: Plan, settings: Settings) -> str:
    return _comments(plan, settings) + (
        "# For the decode instances: vllm serve --config THIS_FILE\n"
        f"max-num-batched-tokens: {settings.values['max-num-batched-tokens']}  # chunk and one token per resident\n"
        f"long-prefill-token-threshold: {settings.values['long-prefill-token-threshold']}  # the TBT-safe chunk\n"
    )


def _prometheus(plan: Plan, settings: Settings) -> str:
    p95, slo = settings.values["predicted_p95_ttft_s"], plan.slo.ttft_s
    measured = "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))"
    parted = f"qmodel:ttft_p95_seconds:measured > {ALERT_FACTOR} * qmodel:ttft_p95_seconds:predicted"
    return _comments(plan, settings) + (
        "groups:\n"
        "  - name: qmodel\n"
        "    rules:\n"
        "      - record: qmodel:ttft_p95_seconds:predicted\n"
        f"        expr: vector({p95!r})\n"
        "      - record: qmodel:ttft_slo_seconds\n"
        f"        expr: vector({slo!r})\n"
        "      - record: qmodel:ttft_p95_seconds:measured\n"
        f"        expr: {measured}\n"
        "      - alert: TTFTPartsFromPrediction\n"
        f"        expr: {parted}\n"
        "        for: 10m\n"
        "        labels:\n"
        "          severity: warning\n"
        "        annotations:\n"
        "          summary: P95 TTFT is above what the deflection plan predicts; derive it again for today's traffic\n"
    )
