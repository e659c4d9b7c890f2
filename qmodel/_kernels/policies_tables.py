"""Look-ups in the tables of a threshold rule, compiled; `qmodel.policies.tables` holds the same in plain Python."""

from qmodel._kernels import kernel


@kernel
def bracket(grid, x):
    """Return (i, f): grid[i] + f*(grid[i+1] - grid[i]) = x; f lies outside [0, 1] beyond the grid."""
    n = len(grid)
    if n == 1:
        return 0, 0.0
    low, high = 0, n - 1
    while high - low > 1:
        mid = (low + high) // 2
        if grid[mid] <= x:
            low = mid
        else:
            high = mid
    return low, (x - grid[low]) / (grid[low + 1] - grid[low])


@kernel
def at(values, i, f):
    """Return the linear interpolation of a table at a bracket."""
    if len(values) == 1:
        return values[0]
    return values[i] + f * (values[i + 1] - values[i])


@kernel
def collapse(table, batches, contexts, B, K, out):
    """Write the table over lengths at batch B and context K, both held to the grid."""
    b, f = bracket(batches, B)
    c, g = bracket(contexts, K)
    f, g = min(1.0, max(0.0, f)), min(1.0, max(0.0, g))
    b1, c1 = min(b + 1, len(batches) - 1), min(c + 1, len(contexts) - 1)
    for i in range(table.shape[0]):
        low = table[i, b, c] + f * (table[i, b1, c] - table[i, b, c])
        high = table[i, b, c1] + f * (table[i, b1, c1] - table[i, b, c1])
        out[i] = low + g * (high - low)


@kernel
def locate(batches, contexts, B, K):
    """Return the cell (b, b1, g, c, c1, h) of batch B and context K, both held to the grid."""
    b, g = bracket(batches, B)
    c, h = bracket(contexts, K)
    g, h = min(1.0, max(0.0, g)), min(1.0, max(0.0, h))
    return b, min(b + 1, len(batches) - 1), g, c, min(c + 1, len(contexts) - 1), h


@kernel
def within(table, i, cell):
    """Return the table at length i of its grid and a place in a cell of batch and context."""
    b, b1, g, c, c1, h = cell
    low = table[i, b, c] + g * (table[i, b1, c] - table[i, b, c])
    high = table[i, b, c1] + g * (table[i, b1, c1] - table[i, b, c1])
    return low + h * (high - low)


@kernel
def interpolate3(table, i, f, cell):
    """Return the table at a length's bracket (extrapolated) and a place in a cell of batch and context."""
    low = within(table, i, cell)
    return max(0.0, low + f * (within(table, min(i + 1, table.shape[0] - 1), cell) - low))
