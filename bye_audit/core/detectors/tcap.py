"""Samples to which several heads give another share of their attention than to all others.

Shapes: N = samples, B = samples of a batch, R = samples kept whole, V = voters.
"""

# ruff: noqa: N815 - fields carry the shape suffixes of the legend above

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bye_audit.config import DetectConfig
from bye_audit.core.confounders import EXPLAINED_V, Association, associate_all
from bye_audit.core.dawid_skene import (
    NO_VOTE,
    DawidSkene,
    decode_votes,
    encode_votes,
    fit_dawid_skene,
)
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.detectors.judging import nothing_found, require_enough
from bye_audit.core.detectors.plausibility import detect_plausibility
from bye_audit.core.head_search import HeadSearch
from bye_audit.core.head_values import HeadScale, HeadValues, make_head_scale, read_head_values
from bye_audit.core.voting import HeadVoter, form_panels, kappa_with
from bye_audit.errors import StageNotRunError, TooFewSamplesError
from bye_audit.schema import Decision, Reason

_NAME = "tcap"
_WITNESS = "plausibility"
_NO_WITNESS = "Fine-tuning did not make their answers likelier than those of others."
_MOST_OTHER_GROUPS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """Heads that set the same samples apart.

    Parameters
    ----------
    voters
        The most trusted first, no head twice.
    members_R
        Samples kept whole that more than half of them vote for.
    witness_kappa
        Agreement of these with the second witness; None without one.
    has_witness
        Whether it is enough to say that both mean the same samples.
    is_enough
        Whether there are heads enough, or one and a second witness.
    """

    voters: list[HeadVoter]
    members_R: NDArray[np.bool_]
    witness_kappa: float | None
    has_witness: bool
    is_enough: bool

    def to_json(self) -> dict[str, Any]:
        """Size and heads, as plain values."""
        return {
            "share": float(self.members_R.mean()),
            "witness_kappa": self.witness_kappa,
            "heads": [[voter.statistic, voter.layer, voter.head] for voter in self.voters],
        }


def detect_tcap(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect the samples that several heads set apart by how they share out their attention.

    Parameters
    ----------
    evidence
        Statistics of every head; strata and likelihoods, where there are any, as second opinions.
    config
        ``config.tcap`` says which heads may vote; the others bound what may be removed.
    on_layer
        Called with the layer's number after its heads were searched.

    Returns
    -------
    Detection
        The samples that the heads' joint votes make likelier poison than not. ``layers`` is empty:
        ``statistics["heads"]`` says which heads voted.

    Raises
    ------
    StageNotRunError
        If ``score`` stored no statistics of heads.
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples have them.

    Notes
    -----
    After [1]_ as described by others; its code was not seen. Of every head in the last layers the
    shares of the first answer token's attention on system, image and text are each described by a
    Gaussian mixture of 1 to 5 components (AIC), cut in a minority and a majority. The heads with
    the largest separation score, one over the overlap of both, vote, and the votes are joined by
    Dawid and Skene's EM; samples with a posterior above one half are suspected.

    Departs from [1]_: (1) all three spans, or the entropy, and either side; (2) a minority must be
    a mode of its own (:func:`bye_audit.core.groups.find_two_groups`), which a component by AIC is
    not; (3) only heads that set the same samples apart vote together, three at least; (4) a group
    that confounders explain is told and not acted upon; (5) a second witness may choose the heads.

    References
    ----------
    .. [1] Liu et al., "TCAP: Tri-Component Attention Profiling for Unsupervised Backdoor Detection
       in MLLM Fine-Tuning", 2026. arXiv:2601.21692.
    """
    scale = make_head_scale(evidence, config.tcap.mass_scale)
    values = _read_values(evidence, scale, config)
    require_enough(int(values.has_values_N.sum()), config, "statistics of heads")
    witness_N = _second_witness(evidence, config)
    witness_R = None if witness_N is None else witness_N[values.rows_R]
    search = HeadSearch(
        values=values,
        scale=scale,
        strata={name: strata.take(values.rows_R) for name, strata in evidence.strata.items()},
        config=config.tcap,
        max_share=config.max_removed_share,
        witness_R=witness_R if config.tcap.agree_with else None,
        seed=config.seed,
    )
    found = search.run(on_layer)
    panels = _form_panels(found.voters, search, witness_R)
    explained = _form_panels(found.explained, search, witness_R)
    statistics = {
        "profiled_layers": list(values.layers),
        "profiled_statistics": list(values.statistics),
        "num_heads_searched": values.num_heads_with_values,
        "num_heads_apart": len({voter.place for voter in found.voters}),
        "num_heads_explained": len({voter.place for voter in found.explained}),
        "second_witness": None if witness_N is None else _WITNESS,
        "heads": [],
        "other_groups": [],
    }
    chosen = next((panel for panel in [*panels, *explained] if panel.is_enough), None)
    if chosen is None:
        text = _no_panel_text(statistics, config)
        return nothing_found(_NAME, text, values.has_values_N, [], statistics)
    model, log_odds_N = _join_votes(evidence, chosen, scale, config)
    statistics["heads"] = [
        {**voter.to_json(), "sensitivity": float(hit), "specificity": float(reject)}
        for voter, hit, reject in zip(
            chosen.voters, model.sensitivity_W, model.specificity_W, strict=True
        )
    ]
    statistics["other_groups"] = [
        panel.to_json() for panel in [*panels, *explained] if panel is not chosen
    ][:_MOST_OTHER_GROUPS]
    return _judge(evidence, chosen, log_odds_N, config, statistics)


def _form_panels(
    voters: Sequence[HeadVoter], search: HeadSearch, witness_R: NDArray[np.bool_] | None
) -> list[Panel]:
    """Put the voters together that set the same samples apart, the most convincing panel first.

    A panel is as convincing as the least separated of the heads that it takes to be enough; panels
    that the second witness agrees with come before, if it was asked to choose.
    """
    if not voters:
        return []
    votes_RV = np.stack([search.votes_of(voter) for voter in voters], axis=1)
    settings = search.config
    panels = []
    for numbers in form_panels(voters, votes_RV, min_kappa=settings.min_kappa):
        seats = numbers[: settings.num_heads]
        cast_R = (votes_RV[:, seats] != NO_VOTE).sum(axis=1)
        members_R = (votes_RV[:, seats] == 1).sum(axis=1) * 2 > cast_R
        kappa = None
        if witness_R is not None:
            kappa = float(kappa_with(members_R[:, None].astype(np.int8), witness_R)[0])
        has_witness = kappa is not None and kappa >= settings.min_witness_kappa
        panels.append(
            Panel(
                voters=[voters[number] for number in seats],
                members_R=members_R,
                witness_kappa=kappa,
                has_witness=has_witness,
                is_enough=len(seats) >= settings.min_heads
                or (has_witness and settings.agree_with is not None),
            )
        )

    def convincing(panel: Panel) -> tuple[bool, bool, float]:
        last = panel.voters[min(settings.min_heads, len(panel.voters)) - 1]
        is_preferred = panel.has_witness and settings.agree_with is not None
        return panel.is_enough, is_preferred, last.groups.separation

    return sorted(panels, key=convincing, reverse=True)


def _read_values(evidence: Evidence, scale: HeadScale, config: DetectConfig) -> HeadValues:
    if evidence.heads is None:
        raise StageNotRunError(
            "The detector `tcap` needs the statistics of every head, which are not there.",
            hint="Run `bye-audit score AUDIT --restart`, or use `--detector bye`.",
        )
    num_layers, last = evidence.heads.num_layers, config.tcap.last_layers
    first = num_layers // 2 if last is None else max(0, num_layers - last)
    return read_head_values(
        evidence.heads,
        scale,
        statistics=config.tcap.statistics,
        layers=range(first, num_layers),
        num_samples=len(evidence.entropy_NL),
        seed=config.seed,
    )


def _second_witness(evidence: Evidence, config: DetectConfig) -> NDArray[np.bool_] | None:
    """Ask the second witness whom it suspects; None if it cannot say."""
    if evidence.answer_logp_N is None or evidence.answer_logp_base_N is None:
        return None
    try:
        return detect_plausibility(evidence, config).is_suspicious_N
    except TooFewSamplesError:
        return None


def _join_votes(
    evidence: Evidence, panel: Panel, scale: HeadScale, config: DetectConfig
) -> tuple[DawidSkene, FloatArray]:
    """Read the panel's votes on every sample and join them; NaN for a sample without a vote."""
    assert evidence.heads is not None
    num_voters = len(panel.voters)
    # 0 is the code of no vote at all.
    codes_N = np.zeros(len(evidence.entropy_NL), dtype=np.int32)
    names = sorted({voter.statistic for voter in panel.voters})
    for rows_B, batch in evidence.heads.batches(names):
        votes_BV = np.empty((rows_B.size, num_voters), dtype=np.int8)
        for column, voter in enumerate(panel.voters):
            values_B = batch[voter.statistic][:, voter.layer, voter.head]
            strata = None if voter.confounder is None else evidence.strata[voter.confounder]
            votes_BV[:, column] = voter.vote(
                scale.apply(voter.statistic, values_B, rows_B),
                None if strata is None else strata.codes_N[rows_B],
                threshold=config.tcap.vote_threshold,
            )
        codes_N[rows_B] = encode_votes(votes_BV)
    codes_P, inverse_N, counts_P = np.unique(codes_N, return_inverse=True, return_counts=True)
    votes_PV = decode_votes(codes_P, num_voters)
    says_something_P = codes_P > 0
    model = fit_dawid_skene(votes_PV[says_something_P], weights_N=counts_P[says_something_P])
    log_odds_P = np.where(says_something_P, model.log_odds(votes_PV), np.nan)
    return model, log_odds_P[inverse_N]


def _judge(
    evidence: Evidence,
    panel: Panel,
    log_odds_N: FloatArray,
    config: DetectConfig,
    statistics: dict[str, Any],
) -> Detection:
    """Put the group that the votes give through the guards."""
    is_evaluated_N = np.isfinite(log_odds_N)
    is_flagged_N = is_evaluated_N & (log_odds_N > 0)
    rows = np.flatnonzero(is_evaluated_N)
    strata = [item.take(rows) for item in evidence.strata.values()]
    associations = associate_all(is_flagged_N[rows], strata)
    explanation = next((item for item in associations if item.explains), None)
    num_flagged, share = int(is_flagged_N.sum()), float(is_flagged_N.sum() / max(rows.size, 1))
    statistics = {
        **statistics,
        "num_evaluated": rows.size,
        "num_in_suspicious_component": num_flagged,
        "suspicious_share": share,
        "witness_kappa": panel.witness_kappa,
        "confounders": {item.name: item.to_json() for item in associations},
        "explained_by": None if explanation is None else explanation.name,
    }
    found = _panel_text(panel, num_flagged, rows.size)
    decision = Decision.INCONCLUSIVE
    if explanation is not None:
        found += f" {_association_text(explanation)}, which may be all there is to it."
        if statistics["second_witness"] and not panel.has_witness:
            text = (
                f"{found} Their answers are no less plausible than others. No evidence of poison."
            )
            return nothing_found(_NAME, text, is_evaluated_N, [], statistics)
        verdict = "Inconclusive: nothing is removed."
    elif share >= config.max_removed_share:
        verdict = (
            f"At most {config.max_removed_share:.0%} may be removed: it may as well be the clean "
            "part of the data. Inconclusive: nothing is removed."
        )
    elif not num_flagged:
        return nothing_found(
            _NAME, f"{found} No evidence of poison.", is_evaluated_N, [], statistics
        )
    else:
        decision = Decision.POISON_SUSPECTED
        verdict = "Poison is suspected."
        if panel.has_witness:
            found += " Fine-tuning alone made the same samples' answers likely."
        named = [item for item in associations if item.cramers_v >= EXPLAINED_V]
        found += "".join(f" {_association_text(item)}." for item in named)
    is_removing = decision is Decision.POISON_SUSPECTED
    return Detection(
        detector=_NAME,
        decision=decision,
        explanation=f"{found} {verdict}",
        suspicion_N=np.asarray(expit(log_odds_N)),
        is_suspicious_N=is_flagged_N if is_removing else np.zeros_like(is_flagged_N),
        is_evaluated_N=is_evaluated_N,
        score_N=log_odds_N,
        cut=0.0,
        statistics=statistics,
    )


def _panel_text(panel: Panel, num_flagged: int, num_evaluated: int) -> str:
    layers = sorted({voter.layer for voter in panel.voters})
    heads = f"{len(panel.voters)} attention head{'s' if len(panel.voters) > 1 else ''}"
    return (
        f"{heads} of layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))} set "
        f"{num_flagged} of {num_evaluated} judged samples ({num_flagged / num_evaluated:.1%}) "
        "apart by how they share out attention."
    )


def _association_text(found: Association) -> str:
    return (
        f"Of these samples {found.share_of_group:.0%} have the {found.name.replace('_', ' ')} "
        f"{found.label!r}, as {found.share_of_stratum:.0%} of all that have it are among them"
    )


def _no_panel_text(statistics: dict[str, Any], config: DetectConfig) -> str:
    num_apart, searched = statistics["num_heads_apart"], statistics["num_heads_searched"]
    if not num_apart:
        text = f"None of {searched} attention heads sets a minority of the samples apart."
    else:
        text = (
            f"{num_apart} of {searched} attention heads set a minority of the samples apart, but "
            f"no {config.tcap.min_heads} of them the same one."
        )
    return f"{text} No evidence of poison."


TCAP = Detector(
    name=_NAME,
    detect=detect_tcap,
    reason=Reason.ATTENTION_ALLOCATION,
    score_label="log-odds of poison by the votes of attention heads",
    is_low_suspicious=False,
    limits=(
        "It sees triggers, of any form, to which at least three attention heads answer with "
        "another allocation of attention than to the rest; a model that learnt the backdoor in one "
        "head, or not at all, leaves too little to vote on.",
        "Whatever else sets a minority of the samples apart does so for attention too. Question, "
        "image size and number of image tokens are looked into; what a picture shows is not: look "
        "at the suspected samples before you blame anyone.",
        "A trigger in every question of one form looks like a kind of question. Such a group is "
        "told and not removed.",
    ),
)
