"""Parts of the time to first token, in the order of a request's life."""

from __future__ import annotations

__all__ = ["PARTS", "PART_LABELS"]

# Name in code and tables, and name for people.
PART_LABELS = {
    "queue": "queue",
    "prefill": "execution",
    "transfer": "transfer",
    "admission": "decode admission",
    "first_step": "first step",
}
PARTS = tuple(PART_LABELS)
