"""Model shapes from a Hugging Face ``config.json``: what a step multiplies, and what it keeps in the KV cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from qmodel.errors import InputError

__all__ = ["ModelShape", "known_models", "load_model"]

BYTES = 2  # bf16
_UNGATED = frozenset({"bloom", "gpt2", "gpt_neox", "opt", "falcon"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Dimensions of a decoder-only transformer: dense or mixture-of-experts, with grouped or latent attention.

    Parameters
    ----------
    name : str
        Name, e.g. ``llama-3.1-8b``.
    layers, hidden, heads, kv_heads, head_dim, vocab : int
        Layers, hidden size, attention heads, KV heads, size of a head, vocabulary.
    inter : int
        Inner size of a dense MLP; 0 when every layer is a mixture of experts.
    gated : bool
        Whether the MLP has a gate (SwiGLU: three matrices) or not (two).
    experts, experts_per_token, expert_inter, shared_experts, dense_layers : int
        Mixture of experts: routed experts, how many a token takes, their inner size, shared experts that every
        token takes, and how many of the first layers are dense. 0 for dense models.
    kv_lora, q_lora, qk_nope, qk_rope, v_head : int
        Multi-head latent attention: ranks and head sizes. `kv_lora` 0 means grouped-query attention.
    parameters : float
        Weights.
    max_context : int
        Longest context the model takes [tokens].
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    inter: int
    gated: bool = True
    experts: int = 0
    experts_per_token: int = 0
    expert_inter: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    kv_lora: int = 0
    q_lora: int = 0
    qk_nope: int = 0
    qk_rope: int = 0
    v_head: int = 0
    parameters: float
    max_context: int

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "max_context"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise InputError(f"model {name}", value, "a whole number >= 1", "check config.json")
        if self.experts and not (0 < self.experts_per_token <= self.experts and self.expert_inter > 0):
            raise InputError("experts per token", self.experts_per_token, f"in 1..{self.experts}", "check config.json")
        if not self.experts and self.inter < 1:
            raise InputError("intermediate_size", self.inter, ">= 1", "check config.json")

    @property
    def is_moe(self) -> bool:
        """Whether the model is a mixture of experts."""
        return self.experts > 0

    @property
    def is_mla(self) -> bool:
        """Whether the model caches latents (multi-head latent attention)."""
        return self.kv_lora > 0

    @property
    def active_parameters(self) -> float:
        """Weights that one token uses: all of a dense model, the chosen experts of a mixture."""
        if not self.is_moe:
            return self.parameters
        expert = (3 if self.gated else 2) * self.hidden * self.expert_inter
        idle = (self.layers - self.dense_layers) * (self.experts - self.experts_per_token) * expert
        return self.parameters - idle

    def kv_bytes_per_token(self) -> float:
        """Return the KV cache of one token [bytes] that moves between instances, each part counted once at any tp."""
        if self.is_mla:
            return float(self.layers * (self.kv_lora + self.qk_rope) * BYTES)
        return float(2 * self.layers * self.kv_heads * self.head_dim * BYTES)

    def kv_capacity_tokens(self, tp: int, gpu_memory_bytes: float, share: float = 0.9, slack: float = 2.0**31) -> int:
        """Return the tokens of KV cache that fit an instance of `tp` GPUs; 0 when the weights do not fit.

        Parameters
        ----------
        tp : int
            GPUs of the instance.
        gpu_memory_bytes : float
            Memory of one GPU [bytes].
        share : float
            Share of it that the engine takes (vLLM's ``gpu_memory_utilization``).
        slack : float
            Activations and graphs [bytes per GPU].
        """
        free = share * gpu_memory_bytes - self.parameters * BYTES / tp - slack
        copies = tp if self.is_mla else max(1, tp // self.kv_heads)  # latents, or scarce KV heads, are replicated
        return max(0, int(free * tp / (self.kv_bytes_per_token() * copies)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str, parameters: float | None = None) -> ModelShape:
        """Return the shape that a Hugging Face configuration describes.

        Parameters
        ----------
        config : Mapping
            Content of ``config.json``.
        name : str
            Name of the model.
        parameters : float, optional
            Number of weights; counted from the shape when not given.

        Returns
        -------
        ModelShape
            Validated shape.

        Raises
        ------
        InputError
            When a needed key is missing or not a number.
        """
        cfg = config.get("text_config", config)
        fields = _dimensions(cfg, name)
        fields["parameters"] = 1.0
        shape = cls(name=name, **fields)
        return cls(name=name, **(fields | {"parameters": float(parameters or _count(shape, cfg))}))


def _number(cfg: Mapping[str, Any], model: str, *keys: str, default: int | None = None) -> int:
    for key in keys:
        value = cfg.get(key)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"'{key}' in the config of {model}", repr(value), "a number")
            return int(value)
    if default is None:
        raise InputError(f"'{keys[0]}' in the config of {model}", "missing", "given", "use the model's config.json")
    return default


def _dimensions(cfg: Mapping[str, Any], model: str) -> dict[str, Any]:
    def get(*keys: str, default: int | None = None) -> int:
        return _number(cfg, model, *keys, default=default)

    hidden = get("hidden_size", "n_embed", "n_embd")
    heads = get("num_attention_heads", "n_head")
    experts = get("n_routed_experts", "num_local_experts", "num_experts", default=0)
    inter = get("intermediate_size", "n_inner", default=4 * hidden)
    layers = get("num_hidden_layers", "n_layer")
    fields: dict[str, Any] = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": get("num_key_value_heads", default=heads),
        "head_dim": get("head_dim", default=hidden // heads),
        "vocab": get("vocab_size"),
        "inter": inter,
        "gated": cfg.get("model_type", "") not in _UNGATED,
        "max_context": get("max_position_embeddings", "seq_length", "n_positions", default=4096),
    }
    if experts:
        fields |= {
            "experts": experts,
            "experts_per_token": get("num_experts_per_tok"),
            "expert_inter": get("moe_intermediate_size", default=inter),
            "shared_experts": get("n_shared_experts", default=0),
            "dense_layers": get("first_k_dense_replace", default=0),
        }
    if cfg.get("kv_lora_rank"):
        fields |= {
            "kv_lora": get("kv_lora_rank"),
            "q_lora": get("q_lora_rank", default=0),
            "qk_nope": get("qk_nope_head_dim"),
            "qk_rope": get("qk_rope_head_dim"),
            "v_head": get("v_head_dim"),
        }
    return fields


def _count(s: ModelShape, cfg: Mapping[str, Any]) -> float:
    """Return the weights of the matrices; norms and biases are below 0.1 % and left out."""
    h = s.hidden
    if s.is_mla:
        query = h * s.q_lora + s.q_lora * s.heads * (s.qk_nope + s.qk_rope) if s.q_lora else 0
        query = query or h * s.heads * (s.qk_nope + s.qk_rope)
        latent = h * (s.kv_lora + s.qk_rope) + s.kv_lora * s.heads * (s.qk_nope + s.v_head)
        attention = query + latent + s.heads * s.v_head * h
    else:
        attention = h * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    per_mlp = (3 if s.gated else 2) * h
    moe_layers = s.layers - s.dense_layers if s.is_moe else 0
    dense = (s.layers - moe_layers) * per_mlp * s.inter
    routed = moe_layers * (per_mlp * s.expert_inter * (s.experts + s.shared_experts) + h * s.experts)
    embeddings = s.vocab * h * (1 if cfg.get("tie_word_embeddings") else 2)
    return float(s.layers * attention + dense + routed + embeddings)


def known_models() -> list[str]:
    """Return the names of the embedded models."""
    folder = resources.files("qmodel") / "data" / "models"
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))


def load_model(name_or_path: str | Path) -> ModelShape:
    """Return an embedded model by name, or the model that a ``config.json`` describes.

    Parameters
    ----------
    name_or_path : str or Path
        A name of `known_models`, in any case, or a path to a Hugging Face ``config.json`` (or its folder).

    Returns
    -------
    ModelShape
        Validated shape.

    Raises
    ------
    InputError
        When the name is unknown, or the file is missing or not a model configuration.
    """
    text = str(name_or_path)
    if text.lower() in known_models():
        entry = json.loads((resources.files("qmodel") / "data" / "models" / f"{text.lower()}.json").read_text("utf-8"))
        return ModelShape.from_config(entry["config"], entry["name"], entry["parameters"])
    path = Path(name_or_path)
    path = path / "config.json" if path.is_dir() else path
    if path.suffix != ".json":
        raise InputError("model", repr(text), f"one of {', '.join(known_models())}", "or a path to a config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError("model configuration", f"'{path}', which does not exist", "a config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("model configuration", f"'{path}': {error}", "a readable JSON object") from None
    if not isinstance(config, dict):
        raise InputError("model configuration", f"'{path}'", "a JSON object")
    return ModelShape.from_config(config, _name(config, path))


def _name(config: Mapping[str, Any], path: Path) -> str:
    given = str(config.get("_name_or_path") or (path.parent.name if path.stem == "config" else path.stem))
    return given.rstrip("/").rsplit("/", 1)[-1].lower() or "model"
