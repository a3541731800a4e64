"""Expectation-maximisation of one-dimensional Gaussian mixtures, many climbs at once.

Shapes: R = climbs, K = components, N = values.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Elements that a step works on at a time: three of these arrays fit into a core's own cache.
_BLOCK_ELEMENTS = 1 << 15
# What an extrapolated step may cost: the floor of the variances makes plain steps lose as much.
_TOLERATED_LOSS = 1e-7
_MAX_EXTRAPOLATION = 1e3
_MAX_MOVE = 3.0
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Parameters of R mixtures of K normal components.

    Parameters
    ----------
    mean_RK, var_RK
        Means and variances, in the unit of the values and in that unit squared.
    weight_RK
        Shares of the components; each row adds to 1.
    """

    mean_RK: FloatArray
    var_RK: FloatArray
    weight_RK: FloatArray

    def __len__(self) -> int:
        return len(self.mean_RK)

    def take(self, rows: NDArray[np.integer] | slice) -> Self:
        """Pick some of the mixtures."""
        return type(self)(
            mean_RK=self.mean_RK[rows], var_RK=self.var_RK[rows], weight_RK=self.weight_RK[rows]
        )

    def ordered(self) -> Self:
        """Sort each mixture's components by mean."""
        order_RK = np.argsort(self.mean_RK, axis=1, kind="stable")
        parts = (self.mean_RK, self.var_RK, self.weight_RK)
        mean_RK, var_RK, weight_RK = (np.take_along_axis(p, order_RK, axis=1) for p in parts)
        return type(self)(mean_RK=mean_RK, var_RK=var_RK, weight_RK=weight_RK)

    def rescaled(self, shift: float, scale: float) -> Self:
        """Components of ``values * scale + shift``."""
        return type(self)(
            mean_RK=self.mean_RK * scale + shift,
            var_RK=self.var_RK * scale**2,
            weight_RK=self.weight_RK,
        )

    def log_joint(self, values_N: FloatArray) -> FloatArray:
        """Log of weight times density of every component at every value, shape (R, K, N)."""
        power_3N = np.stack([np.ones_like(values_N), values_N, values_N * values_N])
        return np.asarray(self._coefficients() @ power_3N)

    def _coefficients(self) -> FloatArray:
        """Log joint density of each component as a polynomial in the value, shape (R, K, 3)."""
        precision_RK = 1.0 / self.var_RK
        # A component that holds nothing has no chance anywhere.
        with np.errstate(divide="ignore"):
            log_weight_RK = np.log(self.weight_RK)
        constant_RK = (
            log_weight_RK
            - 0.5 * (_LOG_2PI + np.log(self.var_RK))
            - 0.5 * self.mean_RK**2 * precision_RK
        )
        return np.stack([constant_RK, self.mean_RK * precision_RK, -0.5 * precision_RK], axis=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Climb:
    """Where R climbs ended.

    Parameters
    ----------
    components
        Parameters after the last step.
    bound_R
        Mean log-likelihood of a value under the parameters *before* the last step, which is what
        the stopping rule looks at.
    num_steps_R
        Steps taken.
    has_converged_R
        Whether the last step changed the bound by less than the tolerance.
    """

    components: Components
    bound_R: FloatArray
    num_steps_R: NDArray[np.int64]
    has_converged_R: NDArray[np.bool_]


def climb(
    values_N: FloatArray,
    start: Components,
    *,
    weights_RN: FloatArray | None = None,
    tol: float,
    max_steps: int,
    variance_floor: float,
) -> Climb:
    """Run expectation-maximisation from every start until it stops gaining.

    Parameters
    ----------
    values_N
        Finite values, best standardised: densities are computed as polynomials.
    start
        One mixture a climb.
    weights_RN
        How often each value counts, for all climbs (one row) or each its own. None: once.
    tol
        A climb stops when its mean log-likelihood changed by less than this.
    max_steps
        Most steps of a climb.
    variance_floor
        Added to each variance in each step.

    Returns
    -------
    Climb
        In the order of ``start``.

    Notes
    -----
    Order of steps, stopping rule and floor are those of scikit-learn's ``GaussianMixture`` with
    ``covariance_type="diag"``: from the same start both give the same parameters up to rounding.
    """
    parts = (start.mean_RK, start.var_RK, start.weight_RK)
    mean_RK, var_RK, weight_RK = (np.array(part, dtype=np.float64) for part in parts)
    bound_R = np.full(len(start), -math.inf)
    num_steps_R = np.zeros(len(start), dtype=np.int64)
    has_converged_R = np.zeros(len(start), dtype=bool)
    active = np.arange(len(start))
    for _ in range(max_steps):
        if not active.size:
            break
        now = Components(
            mean_RK=mean_RK[active], var_RK=var_RK[active], weight_RK=weight_RK[active]
        )
        now, new_bound_R = _step(values_N, _rows(weights_RN, active), now, variance_floor)
        mean_RK[active], var_RK[active], weight_RK[active] = now.mean_RK, now.var_RK, now.weight_RK
        num_steps_R[active] += 1
        has_converged_R[active] = np.abs(new_bound_R - bound_R[active]) < tol
        bound_R[active] = new_bound_R
        active = active[~has_converged_R[active]]
    return Climb(
        components=Components(mean_RK=mean_RK, var_RK=var_RK, weight_RK=weight_RK),
        bound_R=bound_R,
        num_steps_R=num_steps_R,
        has_converged_R=has_converged_R,
    )


def ascend(
    values_N: FloatArray,
    start: Components,
    *,
    weights_RN: FloatArray | None = None,
    tol: float,
    max_cycles: int,
    variance_floor: float,
) -> Components:
    """Climb to the top with extrapolated steps: where :func:`climb` creeps, this arrives.

    Parameters
    ----------
    values_N, start, weights_RN, variance_floor
        As for :func:`climb`.
    tol
        An ascent stops when one plain step gains less than this.
    max_cycles
        Most cycles of two plain steps and an extrapolation.

    Returns
    -------
    Components
        In the order of ``start``.

    Notes
    -----
    Squared extrapolation, scheme S3 of [1]_, in means, log variances and log weights. An
    extrapolation that loses likelihood is dropped for the plain step before it.

    References
    ----------
    .. [1] Varadhan and Roland, "Simple and Globally Convergent Methods for Accelerating the
       Convergence of Any EM Algorithm", Scandinavian Journal of Statistics 35, 2008.
    """
    point_RP = _to_point(start)
    active = np.arange(len(start))
    for _ in range(max_cycles):
        if not active.size:
            break
        weights = _rows(weights_RN, active)
        now_RP = point_RP[active]
        one, bound_R = _step(values_N, weights, _from_point(now_RP), variance_floor)
        two, bound_one_R = _step(values_N, weights, one, variance_floor)
        far_RP = _extrapolate(now_RP, _to_point(one), _to_point(two))
        three, bound_far_R = _step(values_N, weights, _from_point(far_RP), variance_floor)
        is_better_R = bound_far_R >= bound_one_R - _TOLERATED_LOSS
        point_RP[active] = np.where(is_better_R[:, None], _to_point(three), _to_point(two))
        active = active[np.abs(bound_one_R - bound_R) >= tol]
    return _from_point(point_RP)


def mean_log_likelihood(
    values_N: FloatArray, components: Components, weights_RN: FloatArray | None = None
) -> FloatArray:
    """Mean log-likelihood of a value under each mixture, shape (R,)."""
    _, bound_R = _expect(values_N, weights_RN, components)
    return bound_R


def _rows(weights_RN: FloatArray | None, rows: NDArray[np.integer]) -> FloatArray | None:
    return weights_RN if weights_RN is None or len(weights_RN) == 1 else weights_RN[rows]


def _step(
    values_N: FloatArray,
    weights_RN: FloatArray | None,
    components: Components,
    variance_floor: float,
) -> tuple[Components, FloatArray]:
    """One E-step and M-step; also the mean log-likelihood before it."""
    moment_RK3, bound_R = _expect(values_N, weights_RN, components)
    size_RK = moment_RK3[..., 0] + 10 * np.finfo(np.float64).eps
    mean_RK = moment_RK3[..., 1] / size_RK
    return (
        Components(
            mean_RK=mean_RK,
            var_RK=moment_RK3[..., 2] / size_RK - mean_RK**2 + variance_floor,
            weight_RK=size_RK / size_RK.sum(axis=1, keepdims=True),
        ),
        bound_R,
    )


def _expect(
    values_N: FloatArray, weights_RN: FloatArray | None, components: Components
) -> tuple[FloatArray, FloatArray]:
    """One E-step: each component's size, sum and sum of squares, and the mean log-likelihood."""
    coefficient_RK3 = components._coefficients()
    num_climbs, num_components = components.mean_RK.shape
    moment_RK3 = np.zeros((num_climbs, num_components, 3))
    total_R = np.zeros(num_climbs)
    block = max(256, _BLOCK_ELEMENTS // (num_climbs * num_components))
    for begin in range(0, values_N.size, block):
        x_N = values_N[begin : begin + block]
        power_3N = np.stack([np.ones_like(x_N), x_N, x_N * x_N])
        chance_RKN = coefficient_RK3 @ power_3N
        peak_RN = chance_RKN.max(axis=1)
        chance_RKN -= peak_RN[:, None]
        np.exp(chance_RKN, out=chance_RKN)
        sum_RN = chance_RKN.sum(axis=1)
        # From here on the reciprocal is what is needed.
        log_RN = np.log(sum_RN)
        log_RN += peak_RN
        np.divide(1.0, sum_RN, out=sum_RN)
        if weights_RN is not None:
            weight_RN = weights_RN[:, begin : begin + block]
            log_RN *= weight_RN
            sum_RN *= weight_RN
        total_R += log_RN.sum(axis=1)
        chance_RKN *= sum_RN[:, None]
        moment_RK3 += chance_RKN @ power_3N.T
    num_values = values_N.size if weights_RN is None else weights_RN.sum(axis=1)
    return moment_RK3, total_R / num_values


def _to_point(components: Components) -> FloatArray:
    """Parameters as coordinates without bounds, shape (R, 3 K)."""
    return np.concatenate(
        [components.mean_RK, np.log(components.var_RK), np.log(components.weight_RK)], axis=1
    )


def _from_point(point_RP: FloatArray) -> Components:
    mean_RK, log_var_RK, log_weight_RK = np.split(point_RP, 3, axis=1)
    weight_RK = np.exp(log_weight_RK - log_weight_RK.max(axis=1, keepdims=True))
    return Components(
        mean_RK=mean_RK,
        var_RK=np.exp(log_var_RK),
        weight_RK=weight_RK / weight_RK.sum(axis=1, keepdims=True),
    )


def _extrapolate(now_RP: FloatArray, one_RP: FloatArray, two_RP: FloatArray) -> FloatArray:
    """Follow two steps as far as they would lead, were each the same fraction of the one before."""
    step_RP = one_RP - now_RP
    bend_RP = (two_RP - one_RP) - step_RP
    length_R = np.linalg.norm(step_RP, axis=1) / np.maximum(
        np.linalg.norm(bend_RP, axis=1), np.finfo(np.float64).tiny
    )
    # At 1 it is the second step itself. Bounded, for a bend of rounding errors leads anywhere.
    length_R = np.clip(length_R, 1.0, _MAX_EXTRAPOLATION)[:, None]
    far_RP = now_RP + 2 * length_R * step_RP + length_R**2 * bend_RP
    return np.asarray(np.clip(far_RP, two_RP - _MAX_MOVE, two_RP + _MAX_MOVE))
