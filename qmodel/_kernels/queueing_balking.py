"""Kernels of workload-dependent balking: one server by level crossing, several by a modulated fluid."""

import numpy as np
import numpy.typing as npt

from qmodel._kernels import kernel

Array = npt.NDArray[np.float64]

#: Values at which the march is scaled down, and by how much: it is linear, so only ratios count.
LARGE = 1e200


@kernel
def area_below(x: float, step: float, f: Array, area: Array, known: int) -> float:
    """Return the integral of F from 0 to x; F linear between the points 0..known, zero below 0."""
    if x <= 0.0:
        return 0.0
    cell = min(int(x / step), known - 1) if known > 0 else 0
    rest = x - cell * step
    if known == 0:
        return float(rest * f[0])
    slope = (f[cell + 1] - f[cell]) / step
    return float(area[cell] + rest * (f[cell] + 0.5 * rest * slope))


@kernel
def march_balking(rates: Array, services: Array, thetas: Array, step: float, f: Array, area: Array) -> None:
    """Fill F (unnormalised, F[0] = 1) and its integral on a grid of `step`: the virtual wait of M/G/1 with balking.

    F' = sum_i lam_i [F(min(x, theta_i)) - F(x - s_i)]^+, integrated over each cell class by class, so that the jumps of
    F' at s_i and the ends at theta_i + s_i cost no accuracy wherever they fall.
    """
    f[0], area[0] = 1.0, 0.0
    for n in range(f.size - 1):
        low, high = n * step, (n + 1) * step
        gain, implicit = 0.0, 0.0
        for i in range(rates.size):
            end = thetas[i] + services[i]
            top = high if high < end else end
            if thetas[i] < 0.0 or top <= low:
                continue
            # Integral of F(min(x, theta)) over (low, top).
            if top <= thetas[i]:
                # The cell itself: f[n] and the unknown f[n+1], by the trapezoid.
                part = (top - low) / step
                gain += rates[i] * (top - low) * f[n] * (1.0 - 0.5 * part)
                implicit += rates[i] * (top - low) * 0.5 * part
            else:
                inside = thetas[i] - low
                if inside > 0.0:
                    part = inside / step
                    gain += rates[i] * inside * f[n] * (1.0 - 0.5 * part)
                    implicit += rates[i] * inside * 0.5 * part
                    gain += rates[i] * (top - thetas[i]) * f[n] * (1.0 - part)
                    implicit += rates[i] * (top - thetas[i]) * part
                else:
                    cell = min(int(thetas[i] / step), n)
                    at = f[cell]
                    if cell < n:
                        at += (thetas[i] - cell * step) / step * (f[cell + 1] - f[cell])
                    gain += rates[i] * (top - low) * at
            # Minus the integral of F(x - s) over (low, top).
            back = top - services[i]
            if back > 0.0:
                if back <= low:
                    earlier = area_below(low - services[i], step, f, area, n)
                    gain -= rates[i] * (area_below(back, step, f, area, n) - earlier)
                else:
                    earlier = area_below(low - services[i], step, f, area, n)
                    gain -= rates[i] * (area[n] - earlier)
                    part = (back - low) / step
                    gain -= rates[i] * (back - low) * f[n] * (1.0 - 0.5 * part)
                    implicit -= rates[i] * (back - low) * 0.5 * part
        f[n + 1] = (f[n] + gain) / (1.0 - implicit)
        area[n + 1] = area[n] + 0.5 * step * (f[n] + f[n + 1])
        if f[n + 1] > LARGE:
            for m in range(n + 2):
                f[m] /= LARGE
                area[m] /= LARGE


@kernel
def fluid_return(rise: Array, fall: Array, drop: Array, lam: Array, psi: Array, top: int) -> None:
    """Fill psi[c] from the top down: P(phase on first return to the level | phase of the rise), one per cell edge.

    Rising phases a (k+1) end at rates rise[a] into falling phases by drop[a]; falling phases b start rising at
    lam[c, type], type 1 into b + 1, type 2 into b. Riccati: -dPsi/dx = -rise Psi + drop - lam Psi + Psi (climb Psi).
    `fall` holds the height of each cell.
    """
    ups, downs = drop.shape
    slope = np.empty((ups, downs))
    half = np.empty((ups, downs))
    for a in range(ups):
        for b in range(downs):
            psi[top, a, b] = drop[a, b] / rise[a]
    for c in range(top - 1, -1, -1):
        total = lam[c, 0] + lam[c, 1]
        for stage in range(2):
            source = psi[c + 1] if stage == 0 else half
            for a in range(ups):
                for b in range(downs):
                    slope[a, b] = drop[a, b] - (rise[a] + total) * source[a, b]
            for a in range(ups):
                for b in range(downs):
                    # A fall in b turns into a rise in b (service of type 2) or b + 1 (type 1).
                    one, two = source[a, b] * lam[c, 0], source[a, b] * lam[c, 1]
                    for d in range(downs):
                        slope[a, d] += one * source[b + 1, d] + two * source[b, d]
            size = 0.5 * fall[c] if stage == 0 else fall[c]
            base = psi[c + 1]
            for a in range(ups):
                for b in range(downs):
                    value = base[a, b] + size * slope[a, b]
                    if stage == 0:
                        half[a, b] = value
                    else:
                        psi[c, a, b] = value


@kernel
def fluid_density(
    rise: Array, fall: Array, lam: Array, psi: Array, start: Array, top: int, density: Array, up: Array
) -> None:
    """Fill density[c, phase] of the falling fluid at the cell edges, going up from `start`, the rising flux at 0.

    `up` is left with the rising flux at the top.
    """
    ups, downs = psi.shape[1], psi.shape[2]
    for a in range(ups):
        up[a] = start[a]
    slope = np.empty(ups)
    half = np.empty(ups)
    for c in range(top + 1):
        for b in range(downs):
            total = 0.0
            for a in range(ups):
                total += up[a] * psi[c, a, b]
            density[c, b] = total
        if c == top:
            break
        for stage in range(2):
            source = up if stage == 0 else half
            for a in range(ups):
                slope[a] = -rise[a] * source[a]
            for b in range(downs):
                down = 0.0
                for a in range(ups):
                    down += source[a] * (psi[c, a, b] if stage == 0 else 0.5 * (psi[c, a, b] + psi[c + 1, a, b]))
                slope[b + 1] += down * lam[c, 0]
                slope[b] += down * lam[c, 1]
            for a in range(ups):
                if stage == 0:
                    half[a] = up[a] + 0.5 * fall[c] * slope[a]
                else:
                    up[a] = up[a] + fall[c] * slope[a]


@kernel
def independent_jumps(kernels: Array, which: npt.NDArray[np.int64], first: Array, step: float, f: Array) -> None:
    """Fill the density f of V on a grid: f(x) = first(x) + integral_0^x f(y) h_y(x - y) dy, trapezoidal in y.

    Row which[m] of `kernels` is h_y at y = m*step: the rate at which those who still join there make V jump past x - y.
    """
    for n in range(f.size):
        total = 0.5 * f[0] * kernels[which[0], n] if n > 0 else 0.0
        for m in range(1, n):
            total += f[m] * kernels[which[m], n - m]
        f[n] = (first[n] + step * total) / (1.0 - 0.5 * step * kernels[which[n], 0] * (1.0 if n > 0 else 0.0))
