"""Mixtures and the guards on them, on made-up values: ``python -m benchmarks.mixtures PART...``.

``starts``: F1 of a rare low mode by one start and by many. ``agreement``: a histogram's fit against
the exact one. ``speed``: CPU seconds of many layers. ``gaps``: what single modes show of a gap.
``power``: how much of a low mode ``bye`` removes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core import gaussians
from bye_audit.core.bsi import profile_layers
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import detect_bye
from bye_audit.core.gaussians import fit_gaussians, sorted_values
from bye_audit.core.mixture import TwoGaussians, fit_two_gaussians, fit_two_gaussians_once
from bye_audit.core.starts import SortedValues
from bye_audit.core.tails import MIN_GAP, weigh_group

Values = NDArray[np.float64]

ONE_MODE: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: -rng.exponential(size=n),
    "lognormal 0.8": lambda rng, n: -rng.lognormal(0, 0.8, n),
    "gamma 2": lambda rng, n: -rng.gamma(2, 1, n),
    "Student t, 3": lambda rng, n: rng.standard_t(3, n),
    "uniform": lambda rng, n: rng.random(n),
}


def low_mode(
    rng: np.random.Generator, num: int, rate: float, below: float, spread: float
) -> Values:
    """Draw a clean mode around 0 with spread 1, the first values from a mode below it."""
    num_low = round(rate * num)
    return np.concatenate([rng.normal(-below, spread, num_low), rng.normal(size=num - num_low)])


def main() -> None:
    """Print the parts that are asked for."""
    parts = {
        "starts": show_starts,
        "agreement": show_agreement,
        "speed": show_speed,
        "gaps": show_gaps,
        "power": show_power,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    for part in parser.parse_args().parts:
        print(f"\n{part}\n", flush=True)
        parts[part]()


def show_starts() -> None:
    """F1 of the low mode among 3,000 values: one start / many (many, if beyond doubt)."""
    for rate in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        cells = []
        for below in (2.5, 3.5, 5.0):
            scores = []
            for seed in range(5):
                values = low_mode(np.random.default_rng(seed), 3_000, rate, below, 0.5)
                once, many = fit_two_gaussians_once(values), fit_two_gaussians(values)
                f1 = _f1(many.mixture, values, rate)
                scores.append((_f1(once.mixture, values, rate), f1, f1 * many.has_two_modes))
            one, all_starts, sure = np.mean(scores, axis=0)
            cells.append(f"{one:.2f} / {all_starts:.2f} ({sure:.2f})")
        print(f"| {rate:.1%} | " + " | ".join(cells) + " |", flush=True)


def show_agreement() -> None:
    """Largest difference of a parameter between the fit of a million values and of their bins."""
    shapes: dict[str, Callable[[np.random.Generator, int], Values]] = {
        **ONE_MODE,
        "Student t, 1.5": lambda rng, n: rng.standard_t(1.5, n),
        "10 % 5 deviations away": lambda rng, n: low_mode(rng, n, 0.1, 5, 0.5),
        "1 % 3 deviations away": lambda rng, n: low_mode(rng, n, 0.01, 3, 0.5),
        "40 % 1.5 deviations away": lambda rng, n: low_mode(rng, n, 0.4, 1.5, 1),
    }
    for name, draw in shapes.items():
        values = draw(np.random.default_rng(0), 1_000_000)
        exact = _parameters(values)
        with mock.patch.object(gaussians, "MAX_EXACT_VALUES", 1_000):
            streamed = _parameters(values)
        print(f"| {name} | {np.abs(exact - streamed).max():.0e} |", flush=True)


def show_speed() -> None:
    """CPU seconds for 32 layers, every second one with a low mode."""
    rng = np.random.default_rng(0)
    seconds = []
    for layer in range(32):
        rate = 0.1 * (layer + 1) / 32 if layer % 2 else 0.0
        values = low_mode(rng, 1_000_000, rate, 5, 1.5)
        began = time.process_time()
        profile_layers(values[:, None])
        seconds.append(time.process_time() - began)
    print(f"32 layers of 1,000,000: {sum(seconds):.1f} s, slowest {max(seconds):.1f} s", flush=True)
    entropy_NL = rng.normal(3.5, 0.2, (200_000, 32))
    entropy_NL[:10_000, 10:13] -= 1
    began = time.process_time()
    detect_bye(Evidence(entropy_NL=entropy_NL), DetectConfig())
    print(f"bye, 32 layers of 200,000: {time.process_time() - began:.1f} s", flush=True)


def show_gaps() -> None:
    """Evidence for a gap in values without one, where a mixture finds a low minority."""
    gaps: list[float] = []
    for num_values, num_draws in ((50, 400), (400, 300), (4_000, 200), (100_000, 40)):
        for draw in ONE_MODE.values():
            for seed in range(num_draws):
                values = draw(np.random.default_rng([seed, num_values]), num_values)
                mixture = fit_two_gaussians(values).mixture
                cut = mixture.cut()
                if cut is not None and 0 < (values <= cut).mean() < 0.5:
                    sides = SortedValues(*sorted_values(values))
                    gaps.append(weigh_group(sides, cut=cut, center=mixture.mean_high).gap)
    above = [sum(gap > bound for gap in gaps) for bound in (8, 10, MIN_GAP)]
    print(f"{len(gaps)} draws, above 8, 10, {MIN_GAP:g} nats: {above}, most {max(gaps):.1f}")


def show_power() -> None:
    """Share of 6 draws in which poison is suspected, and mean F1, by distance of the low mode."""
    for num_samples in (600, 6_000):
        for spread in (0.5, 1.0):
            for rate in (0.01, 0.02, 0.05, 0.1, 0.2):
                cells = [_power(num_samples, rate, d, spread) for d in (2.83, 3.5, 4.0, 5.0)]
                print(
                    f"| {num_samples:,} | {spread} | {rate:.0%} | {' | '.join(cells)} |", flush=True
                )


def _power(num_samples: int, rate: float, below: float, spread: float) -> str:
    suspected, scores = [], []
    for seed in range(6):
        values = low_mode(np.random.default_rng([seed, 7]), num_samples, rate, below, spread)
        evidence = Evidence(entropy_NL=5 + 0.2 * values[:, None])
        found_N = detect_bye(evidence, DetectConfig(seed=seed)).is_suspicious_N
        suspected.append(found_N.any())
        scores.append(_f1_of(found_N, rate))
    return f"{np.mean(suspected):.0%}, {np.mean(scores):.2f}"


def _f1(mixture: TwoGaussians, values: Values, rate: float) -> float:
    return _f1_of((mixture.posterior_low(values) > 0.5) & (values <= mixture.mean_high), rate)


def _f1_of(found_N: NDArray[np.bool_], rate: float) -> float:
    num_low = round(rate * found_N.size)
    return float(2 * found_N[:num_low].sum() / max(1, found_N.sum() + num_low))


def _parameters(values: Values) -> Values:
    """Parameters of two components in units of the values' spread, variances relative."""
    fit = fit_gaussians(values, 2)
    return np.concatenate([fit.mean_K / fit.spread, np.log(fit.var_K), fit.weight_K])


if __name__ == "__main__":
    main()
