"""A binary heap of (key, id) pairs in two arrays."""

from qmodel._kernels import kernel


@kernel
def heap_push(keys, ids, size, key, r):
    """Push (key, r) on a binary heap of `size` entries, ties in order of id."""
    at = size
    while at > 0:
        up = (at - 1) >> 1
        if keys[up] < key or (keys[up] == key and ids[up] < r):
            break
        keys[at], ids[at] = keys[up], ids[up]
        at = up
    keys[at], ids[at] = key, r


@kernel
def heap_pop(keys, ids, size):
    """Take the smallest of `size` entries off a binary heap and return its id."""
    best = ids[0]
    last = size - 1
    key, r = keys[last], ids[last]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= last:
            break
        other = down + 1
        if other < last and (keys[other] < keys[down] or (keys[other] == keys[down] and ids[other] < ids[down])):
            down = other
        if key < keys[down] or (key == keys[down] and r < ids[down]):
            break
        keys[at], ids[at] = keys[down], ids[down]
        at = down
    keys[at], ids[at] = key, r
    return best
