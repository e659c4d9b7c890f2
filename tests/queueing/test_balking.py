"""Queues with thresholds: exact one-server cases, loss systems, and simulation for several servers."""

import math

import numpy as np
import pytest

from qmodel._kernels.queueing_paths import fcfs_waits
from qmodel.errors import InputError, UnstableError
from qmodel.queueing import ServiceTime, erlang_b, mgk, mgk_balking

from . import reference

EXACT = 1e-8
#: Asked for with several servers: 4 %. Reached: 1 %, and the simulations compared with are good to as much.
REACHED = 0.02
#: The fluid approximation, in overload with thresholds that fall with length (decision 0021).
FLUID = 0.09


@pytest.mark.data
def test_exact_one_server_cases(shared_data):
    cases = [case for case in reference.load(shared_data)["cases"] if case["model"].startswith("M/G/1 threshold")]
    assert cases
    for case in cases:
        queue = mgk_balking(case["lam"], case["service"], case["theta"], 1)
        np.testing.assert_allclose(queue.accept, case["accept"], rtol=EXACT)
        np.testing.assert_allclose(queue.mean_wait_s, case["mean_wait_admitted"], rtol=EXACT)
        assert 1 - queue.wait_probability == pytest.approx(case["p_idle"], rel=EXACT)
        times, values = np.array(case["virtual_wait_cdf"]).T
        np.testing.assert_allclose(queue.virtual_wait_cdf(times), values, rtol=EXACT)


@pytest.mark.data
def test_simulated_cases_of_several_servers(shared_data):
    data = reference.load(shared_data)
    cases = [case for case in data["cases"] if case["model"].startswith("M/G/k threshold")]
    assert cases
    law = data["laws"]["llm_law_40"]
    service = np.array(law["service"])
    weight = np.array(law["weight"]) / np.sum(law["weight"])
    for case in cases:
        rates = weight * case["rho_offered"] * case["k"] / (weight @ service)
        queue = mgk_balking(rates, service, case["theta"], case["k"])
        assert 1 - queue.rejected == pytest.approx(1 - case["reject_prob"], rel=0.01)
        assert 1 - queue.rejected_work == pytest.approx(1 - case["deflected_token_fraction"], rel=0.01)
        assert queue.mean_wait_all_s == pytest.approx(case["mean_wait_admitted"], rel=0.01)
        assert queue.wait_probability == pytest.approx(case["p_virtual_wait_positive"], rel=0.01)
        assert queue.virtual_wait_quantile_s(0.95) == pytest.approx(case["virtual_wait_p95"], rel=0.01)


def simulate(rates, services, thetas, servers, count=1_500_000):
    rng = np.random.default_rng(4)
    which = rng.choice(len(rates), count, p=rates / rates.sum())
    waits = np.empty(count)
    arrival = np.cumsum(rng.exponential(1 / rates.sum(), count))
    limits = np.broadcast_to(thetas, rates.shape)[which]
    fcfs_waits(arrival, services[which], np.ascontiguousarray(limits), np.zeros(servers), waits)
    return waits[count // 20 :], which[count // 20 :]


def test_one_server_off_the_lattice_agrees_with_simulation():
    rates, services, thetas = np.array([0.6, 0.25]), np.array([0.731, 2.9171]), np.array([3.333, 1.01])
    queue = mgk_balking(rates, services, thetas, 1)
    waits, which = simulate(rates, services, thetas, 1)
    for i in range(2):
        mine = waits[which == i]
        assert queue.accept[i] == pytest.approx((mine >= 0).mean(), abs=0.003)
        assert queue.mean_wait_s[i] == pytest.approx(mine[mine >= 0].mean(), rel=0.01)


def prompt_like():
    services = np.geomspace(0.1, 9.0, 24)
    weight = np.exp(-0.5 * (np.log(services / 0.45) / 0.9) ** 2)
    weight /= weight.sum()
    return services / (weight @ services), weight


LAWS = {"prompts": prompt_like(), "uniform": (np.linspace(0.05, 1.95, 20), np.full(20, 0.05))}


def thresholds(kind, services, servers):
    """Return limits: one for all, falling with length, or falling with a third of the classes always joining."""
    if kind == "common":
        return np.full(len(services), 2.5 / math.sqrt(servers))
    falling = 4.0 / math.sqrt(servers) / (1 + services)
    return falling if kind == "by length" else np.where(np.arange(len(services)) < 8, np.inf, falling)


@pytest.mark.parametrize("servers", [2, 4, 8])
@pytest.mark.parametrize(
    ("load", "kind", "law"),
    [
        (0.8, "common", "prompts"), (1.2, "by length", "prompts"), (0.9, "some always", "prompts"),
        (0.8, "by length", "uniform"), (1.2, "common", "uniform"),
    ],
)  # fmt: skip
def test_several_servers_agree_with_simulation(servers, load, kind, law):
    services, weight = LAWS[law]
    rates, thetas = weight * load * servers, thresholds(kind, services, servers)
    queue = mgk_balking(rates, services, thetas, servers)
    waits, _ = simulate(rates, services, thetas, servers)
    joined = waits >= 0
    assert 1 - queue.rejected == pytest.approx(joined.mean(), rel=REACHED)
    assert queue.mean_wait_all_s == pytest.approx(waits[joined].mean(), rel=REACHED)
    assert queue.wait_quantile_s(0.95) == pytest.approx(np.quantile(waits[joined], 0.95), rel=REACHED)
    assert max(queue.error_estimate.values()) < 0.02


@pytest.mark.parametrize("servers", [2, 8])
@pytest.mark.parametrize("kind", ["common", "by length"])
def test_fluid_is_near_the_path(servers, kind):
    services, weight = LAWS["prompts"]
    rates, thetas = weight * 1.2 * servers, thresholds(kind, services, servers)
    fluid, path = (mgk_balking(rates, services, thetas, servers, method) for method in ("fluid", "path"))
    assert fluid.rejected == pytest.approx(path.rejected, abs=0.02)
    assert fluid.mean_wait_all_s == pytest.approx(path.mean_wait_all_s, rel=FLUID)
    assert fluid.error_estimate["mean"] > path.error_estimate["mean"]


def test_more_servers_than_the_fluid_takes():
    queue = mgk_balking([20.0, 12.0], [1.0, 2.0], [0.5, 0.2], 40)
    assert 0 < queue.rejected < 0.2
    with pytest.raises(InputError, match="fluid"):
        mgk_balking([20.0, 12.0], [1.0, 2.0], [0.5, 0.2], 40, "fluid")


def test_no_threshold_is_the_plain_queue():
    rates, services = np.array([0.5, 0.1]), np.array([1.0, 3.0])
    law = ServiceTime.from_samples(services, rates)
    for servers in (1, 3):
        plain = mgk(0.6 * servers, servers, law)
        queue = mgk_balking(rates * servers, services, np.inf, servers)
        assert queue.mean_wait_all_s == pytest.approx(plain.mean_wait_s, rel=1e-5 if servers == 1 else 0.03)
        assert queue.accept == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_zero_threshold_is_a_loss_system(servers):
    queue = mgk_balking([0.5 * servers, 0.3 * servers], [1.0, 2.0], 0.0, servers)
    # Insensitive: Erlang B whatever the services.
    assert queue.accept == pytest.approx(np.full(2, 1 - erlang_b(servers, 1.1 * servers)), rel=0.005)
    assert queue.mean_wait_s == pytest.approx([0.0, 0.0], abs=1e-9)


def test_a_class_that_never_joins_changes_nothing():
    with_it = mgk_balking([0.5, 9.0], [1.0, 5.0], [2.0, -1.0], 1)
    without = mgk_balking([0.5], [1.0], [2.0], 1)
    assert with_it.accept[1] == 0
    assert with_it.accept[0] == pytest.approx(without.accept[0], rel=1e-9)


def test_the_law_of_those_who_join():
    queue = mgk_balking([0.5, 0.3], [1.0, 1.7], [2.0, 0.8], 1)
    grid = np.linspace(0.0, 2.0, 20_001)
    assert np.trapezoid(queue.wait_tail(grid), grid) == pytest.approx(queue.mean_wait_all_s, rel=1e-4)
    assert float(queue.wait_cdf(queue.wait_quantile_s(0.9))) == pytest.approx(0.9, abs=1e-6)
    np.testing.assert_allclose(queue.wait_cdf([-1.0, 2.0, 9.0]), [0.0, 1.0, 1.0])
    with pytest.raises(InputError, match="share that joins"):
        mgk_balking([0.5], [1.0], [-1.0], 1).wait_cdf(1.0)


def test_kernel_is_its_python_source():
    from qmodel._kernels.queueing_balking import march_balking

    arguments = (np.array([0.5, 0.3]), np.array([1.0, 1.7]), np.array([2.0, 0.8]), 0.05)
    tables = []
    for kernel in (march_balking, march_balking.py_func):
        f, area = np.empty(61), np.empty(61)
        kernel(*arguments, f, area)
        tables.append(f)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-12)


def test_errors():
    with pytest.raises(UnstableError, match="always join"):
        mgk_balking([1.0, 1.0], [1.0, 0.2], [np.inf, 1.0], 1)
    for rates, services, thetas in [([-1.0], [1.0], [1.0]), ([1.0], [np.nan], [1.0]), ([1.0], [1.0], [np.nan])]:
        with pytest.raises(InputError):
            mgk_balking(rates, services, thetas, 2)


@pytest.mark.parametrize("far", [2e4, 1e6, 1e9, math.inf])
@pytest.mark.parametrize("servers", [1, 2])
def test_thresholds_that_no_wait_comes_near_are_none(far, servers):
    rates, services = np.array([0.5, 0.1]) * servers, [1.0, 2.0]
    queue = mgk_balking(rates, services, [far, 1.0], servers)
    same = mgk_balking(rates, services, [1000.0, 1.0], servers)
    np.testing.assert_allclose(queue.accept, same.accept, rtol=1e-8 if servers == 1 else 0.005)
    np.testing.assert_allclose(queue.mean_wait_s, same.mean_wait_s, rtol=1e-7 if servers == 1 else 0.02)
    alone = mgk_balking([0.5 * servers], [1.0], far, servers)
    plain = mgk(0.5 * servers, servers, ServiceTime.deterministic(1.0))
    assert alone.mean_wait_s[0] == pytest.approx(plain.mean_wait_s, rel=1e-6 if servers == 1 else 1e-3)
    assert alone.accept[0] == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("theta", [300.0, 3000.0, 30_000.0])
def test_one_server_in_overload_under_long_thresholds(theta):
    # The server never idles, so work joins at rate 1; V is below theta by a time that hardly depends on theta.
    queue, short = (mgk_balking([0.9, 0.2], [1.0, 2.0], limit, 1) for limit in (theta, 60.0))
    np.testing.assert_allclose(queue.accept, 1 / 1.3, rtol=1e-9)
    assert theta - queue.mean_wait_s[0] == pytest.approx(60.0 - short.mean_wait_s[0], rel=1e-5)
    assert theta - queue.wait_quantile_s(0.95) == pytest.approx(60.0 - short.wait_quantile_s(0.95), rel=2e-2)


def test_one_server_states_the_error_of_its_grid():
    # Services of a microsecond beside one of a quarter of an hour: no grid resolves both.
    queue = mgk_balking([1e5, 1e-4], [1e-6, 1e3], 1.0, 1)
    assert 0 < queue.error_estimate["mean"] <= 0.01
    assert mgk_balking([0.5, 0.2], [0.913, 1.777], [2.237, 3.571], 1).error_estimate == {}
