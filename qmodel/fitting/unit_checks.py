"""Whether measured times can be in the unit that they are said to be, told by a lower bound of each."""

from __future__ import annotations

from qmodel.errors import InputError

__all__ = ["OPERATIONS_PER_BYTE", "PRODUCT_RANGE", "check_ratio"]

# Operations that an A100 does while it moves a byte: 312e12/2.04e12 (data sheet); H100 295, H200 206, L40S 419.
OPERATIONS_PER_BYTE = 150
# A one-token product over the time to read its weights in 16 bits: 0.37 (8-bit rows) to 1.34 for the largest products
# of aiconfigurator-core 0.12.0 on five GPUs, more for small ones; a wrong unit is off by 1000.
PRODUCT_RANGE = (0.3, 100.0)


def check_ratio(
    what: str, ratio: float, span: tuple[float, float], remedy: str = "check the unit: times in ms"
) -> None:
    """Raise when a time over its lower bound is so small or large that only another unit explains it.

    Parameters
    ----------
    what : str
        Both times, for the message.
    ratio : float
        Time over its bound.
    span : (float, float)
        Smallest and largest that can be.
    remedy : str
        What to do.

    Raises
    ------
    InputError
        When it lies outside.
    """
    low, high = span
    if not low <= ratio <= high:
        raise InputError(what, ratio, f"between {low:g} and {high:g}", remedy)
