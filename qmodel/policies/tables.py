"""Look-ups in the tables of a threshold rule, in plain Python: linear in length, batch and context."""

from __future__ import annotations

import numpy as np

from qmodel.policies.rule import FloatArray, ThresholdRule

__all__ = ["lookup_curve", "lookup_table"]


def _bracket(grid: FloatArray, x: float) -> tuple[int, int, float]:
    """Return (i, j, f) such that x = grid[i] + f*(grid[j] - grid[i]); f is outside [0, 1] beyond the grid."""
    if len(grid) == 1:
        return 0, 0, 0.0
    i = int(np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2))
    return i, i + 1, float((x - grid[i]) / (grid[i + 1] - grid[i]))


def lookup_curve(rule: ThresholdRule, curve: FloatArray, tokens: float) -> float:
    """Return a curve over lengths at `tokens`, extrapolated linearly beyond the grid, >= 0."""
    i, j, f = _bracket(rule.lengths, tokens)
    return max(0.0, float(curve[i] + f * (curve[j] - curve[i])))


def lookup_table(
    rule: ThresholdRule, contexts: FloatArray, table: FloatArray, tokens: float, batch: float, context: float
) -> float:
    """Return a table over `contexts` at a length (extrapolated), batch and context (both held to the grid), >= 0."""
    i, j, f = _bracket(rule.lengths, tokens)
    b, b1, g = _bracket(rule.batches, batch)
    c, c1, h = _bracket(contexts, context)
    g, h = min(1.0, max(0.0, g)), min(1.0, max(0.0, h))

    def corner(row: FloatArray) -> float:
        low = row[b, c] + g * (row[b1, c] - row[b, c])
        high = row[b, c1] + g * (row[b1, c1] - row[b, c1])
        return float(low + h * (high - low))

    low = corner(table[i])
    return max(0.0, low + f * (corner(table[j]) - low))
