"""Axes that several pictures share."""

import pytest
from matplotlib.figure import Figure

from qmodel.plotting.figure import log_ticks


@pytest.mark.parametrize(("low", "high"), [(13.0, 15.5), (10.0, 26.0), (15.0, 300.0), (15.0, 9000.0)])
def test_labels_of_logarithmic_axes_stay_few_and_plain(low, high):
    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    log_ticks(axes.xaxis)
    shown = [t for t in axes.xaxis.get_ticklocs() if low <= t <= high]
    texts = [axes.xaxis.get_major_formatter()(t) for t in shown]
    assert 2 <= len(shown) <= 7
    assert not any("$" in text for text in texts)
    assert not any(axes.xaxis.get_minor_formatter()(t) for t in axes.xaxis.get_minorticklocs())
