"""Units: seconds, bytes and tokens inside; text such as ``60ms`` or ``30/s`` is converted at the edge."""

from __future__ import annotations

import math
import re

from qmodel.errors import InputError

MS = 1e-3
US = 1e-6
GB = 1e9
# A prefill backlog not met in practice: thresholds beyond it, as those of prompts without a safe chunk, mean never.
NEVER_S = 3600.0

_DURATION_UNITS = {"us": US, "ms": MS, "s": 1.0, "min": 60.0, "h": 3600.0}
_RATE_UNITS = {"/s": 1.0, "/min": 1 / 60.0, "/h": 1 / 3600.0}
_BANDWIDTH_UNITS = {"GB/s": 1.0, "Gb/s": 0.125, "Gbps": 0.125, "MB/s": 1e-3}
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"


def parse_duration_s(text: str, name: str = "duration") -> float:
    """Return the seconds that a text such as ``60ms``, ``1s`` or ``2min`` means.

    Parameters
    ----------
    text : str
        A number with a unit: us, ms, s, min or h. A bare number is refused.
    name : str
        What the duration is, for the error message.

    Returns
    -------
    float
        Duration [s], finite and > 0.

    Raises
    ------
    InputError
        When the unit is missing or unknown, or the value is not finite and > 0.

    Examples
    --------
    >>> parse_duration_s("60ms")
    0.06
    """
    return _parse(text, name, _DURATION_UNITS, f"a duration > 0 with a unit ({', '.join(_DURATION_UNITS)})", "60ms")


def parse_rate_per_s(text: str, name: str = "rate") -> float:
    """Return the events per second that a text such as ``30/s`` or ``120/min`` means.

    Parameters
    ----------
    text : str
        A number with a unit: /s, /min or /h. A bare number is refused.
    name : str
        What the rate is, for the error message.

    Returns
    -------
    float
        Rate [1/s], finite and > 0.

    Raises
    ------
    InputError
        When the unit is missing or unknown, or the value is not finite and > 0.

    Examples
    --------
    >>> parse_rate_per_s("30/s")
    30.0
    """
    return _parse(text, name, _RATE_UNITS, f"a rate > 0 with a unit ({', '.join(_RATE_UNITS)})", "30/s")


def parse_bandwidth_gb_s(text: str, name: str = "bandwidth") -> float:
    """Return the GB/s that a text such as ``25GB/s`` or ``200Gb/s`` means.

    Parameters
    ----------
    text : str
        A number with a unit: GB/s, Gb/s, Gbps or MB/s. A bare number is refused: bytes and bits differ by eight.
    name : str
        What the bandwidth is, for the error message.

    Returns
    -------
    float
        Bandwidth [GB/s], finite and > 0.

    Raises
    ------
    InputError
        When the unit is missing or unknown, or the value is not finite and > 0.

    Examples
    --------
    >>> parse_bandwidth_gb_s("200Gb/s")
    25.0
    """
    return _parse(
        text, name, _BANDWIDTH_UNITS, f"a bandwidth > 0 with a unit ({', '.join(_BANDWIDTH_UNITS)})", "25GB/s"
    )


def _parse(text: str, name: str, units: dict[str, float], limit: str, example: str) -> float:
    match = re.fullmatch(_NUMBER + r"\s*([a-zA-Z/]+)", text.strip())
    scale = units.get(match.group(2)) if match else None
    if match is None or scale is None:
        raise InputError(name, repr(text), limit, f"write for example {example}")
    value = float(match.group(1)) * scale
    if not (math.isfinite(value) and value > 0):
        raise InputError(name, repr(text), limit, f"write for example {example}")
    return value


def format_duration(seconds: float, half_s: float = 0.0) -> str:
    """Return seconds as a short text for people, such as ``512 ms``, ``13.3 s`` or ``5.42 ±2.91 s``.

    Parameters
    ----------
    seconds : float
        Duration [s].
    half_s : float
        Half-width of its interval [s]; 0 is not shown.

    Returns
    -------
    str
        Three significant digits and a unit.

    Examples
    --------
    >>> format_duration(0.5123), format_duration(13.322), format_duration(5.418, 2.906)
    ('512 ms', '13.3 s', '5.42 ±2.91 s')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if half_s:
        scale, unit = (1.0, "s") if seconds >= 1 else (1e3, "ms")
        decimals = max(0, 2 - math.floor(math.log10(max(seconds * scale, 1e-3))))
        return f"{seconds * scale:.{decimals}f} ±{half_s * scale:.{decimals}f} {unit}"
    if abs(seconds) >= 1:
        return f"{seconds:.3g} s" if abs(seconds) < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) >= 1e-3 or seconds == 0 else f"{seconds * 1e6:.3g} us"


def format_share(share: float, half: float = 0.0) -> str:
    """Return a share of 1 in per cent for people, such as ``99.1 %`` or ``81.1 ±7.4 %``.

    Parameters
    ----------
    share : float
        Share of 1.
    half : float
        Half-width of its interval; not shown where it rounds to nothing.

    Returns
    -------
    str
        One decimal.

    Examples
    --------
    >>> format_share(0.9912), format_share(0.811, 0.0742)
    ('99.1 %', '81.1 ±7.4 %')
    """
    return f"{100 * share:.1f} %" if half < 5e-4 else f"{100 * share:.1f} ±{100 * half:.1f} %"


def format_threshold(seconds: float) -> str:
    """Return a threshold on the prefill backlog for people: ``always``, ``never`` or a duration.

    Parameters
    ----------
    seconds : float
        Backlog above which a prompt is deflected [s].

    Returns
    -------
    str
        Text.

    Examples
    --------
    >>> format_threshold(-0.1), format_threshold(0.5), format_threshold(1e9)
    ('always', '500 ms', 'never')
    """
    if seconds <= 0:
        return "always"
    return "never" if seconds >= NEVER_S else format_duration(seconds)
