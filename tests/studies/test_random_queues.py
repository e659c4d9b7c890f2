"""Random queues: the same for the same seed, within their limits, of every kind."""

import pytest

from qmodel.errors import InputError
from qmodel.queueing.correction import RARE
from qmodel.queueing.erlang import mmk
from qmodel.studies.random_queues import KINDS, REACHES, random_queue

LIMITS = {"ordinary": (5.0, 16, 0.5, 0.95), "wider": (5.0, 40, 0.25, 0.985), "farther": (30.0, 40, 0.03, 0.998)}


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("kind", KINDS)
def test_queues_are_within_their_limits(reach, kind):
    largest, most, low, high = LIMITS[reach]
    for number in range(12):
        law, servers, load = random_queue(reach, kind, number, 5)
        assert law.mean_s == pytest.approx(1.0)
        assert 0 < law.scv <= largest
        assert 2 <= servers <= most
        assert low <= load <= high
        assert reach != "farther" or mmk(load * servers, servers, 1.0).wait_probability >= RARE


def test_queues_repeat_and_differ():
    one, same, other = (random_queue("wider", "mixture", number, 5) for number in (3, 3, 4))
    assert one[1:] == same[1:]
    assert one[0].moment(3) == same[0].moment(3)
    assert one[0].moment(3) != other[0].moment(3)


@pytest.mark.parametrize(("reach", "kind"), [("far", "mixture"), ("wider", "Cauchy")])
def test_unknown_queues_are_refused(reach, kind):
    with pytest.raises(InputError, match="one of"):
        random_queue(reach, kind, 0, 1)
