"""Samples to which several heads give another share of their attention than to all others.

Shapes: N = samples, B = samples of a batch, V = voters, P = distinct patterns of votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bye_audit.config import DetectConfig
from bye_audit.core.confounders import Association, associate_all
from bye_audit.core.dawid_skene import DawidSkene
from bye_audit.core.detection import Detection, Detector, Evidence, OnLayer
from bye_audit.core.detectors.judging import judge_mixture, nothing_found, require_enough
from bye_audit.core.detectors.plausibility import detect_plausibility
from bye_audit.core.head_search import HeadSearch
from bye_audit.core.head_values import HeadScale, HeadValues, make_head_scale, read_head_values
from bye_audit.core.hearing import Hearing, hear_panel, mean_overlap
from bye_audit.core.mixture import fit_two_gaussians, split_at_emptiest
from bye_audit.core.panels import Panel, find_panels, is_chosen, is_rival
from bye_audit.errors import StageNotRunError, TooFewSamplesError
from bye_audit.schema import Reason

_NAME = "tcap"
_WITNESS = "plausibility"
_NO_WITNESS = "fine-tuning did not make their answers likelier than those of others"
_MOST_OTHER_GROUPS = 8


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

    Departs from [1]_: (1) all three spans, or the entropy, and either side; (2) only heads
    that set the same samples apart vote together, three at least, and the mean of their values must
    have a group of its own and not only a tail, which a component by AIC is no evidence of; (3) a
    group that confounders explain, or one of several, is told and not acted upon; (4) a second
    witness may choose.

    References
    ----------
    .. [1] Liu et al., "TCAP: Tri-Component Attention Profiling for Unsupervised Backdoor Detection
       in MLLM Fine-Tuning", 2026. arXiv:2601.21692.
    """
    return fit_tcap(evidence, config, on_layer).detection


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TcapFit:
    """The answer, and what it takes to ask the same heads about other samples.

    Parameters
    ----------
    detection
        The answer.
    panel
        Heads that voted; None if there were none to vote.
    model
        How reliable they are.
    scale
        Of their groups.
    """

    detection: Detection
    panel: Panel | None
    model: DawidSkene | None
    scale: HeadScale


def fit_tcap(evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None) -> TcapFit:
    """Do as :func:`detect_tcap` does and keep the heads."""
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
    panels = [
        *find_panels(found.voters, search, witness_R),
        *find_panels(found.explained, search, witness_R),
    ]
    # What a confounder explains comes last: it is told if there is nothing else.
    least = config.tcap.min_witness_agreement
    panels.sort(key=lambda panel: (panel.explanation is not None, not panel.has_witness(least)))
    rivals = [panel for panel in panels[1:] if is_rival(panels[0], panel)]
    statistics = {
        "profiled_layers": list(values.layers),
        "profiled_statistics": list(values.statistics),
        "num_heads_searched": values.num_heads_with_values,
        "num_heads_apart": len({voter.place for voter in found.voters}),
        "second_witness": None if witness_N is None else _WITNESS,
        "heads": [],
        "other_groups": [panel.to_json() for panel in rivals[:_MOST_OTHER_GROUPS]],
    }
    if not panels:
        text = (
            f"Of {values.num_heads_with_values} attention heads no {config.tcap.min_heads} set the "
            "same minority of the samples apart. No evidence of poison."
        )
        nothing = nothing_found(_NAME, text, values.has_values_N, [], statistics)
        return TcapFit(detection=nothing, panel=None, model=None, scale=scale)
    panel = panels[0]
    threshold = config.tcap.vote_threshold
    hearing = hear_panel(evidence, panel.voters, scale, threshold=threshold)
    model = hearing.fit()
    detection = _judge(evidence, panel, hearing, model, config, statistics)
    return TcapFit(detection=detection, panel=panel, model=model, scale=scale)


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
    """Ask the second witness whom it suspects; None if it cannot say.

    Its own guards do not count: whether its group is real is what both together are to show.
    """
    if evidence.answer_logp_N is None or evidence.answer_logp_base_N is None:
        return None
    try:
        return np.asarray(detect_plausibility(evidence, config).suspicion_N > 0.5)
    except TooFewSamplesError:
        return None


def _judge(
    evidence: Evidence,
    panel: Panel,
    hearing: Hearing,
    model: DawidSkene,
    config: DetectConfig,
    statistics: dict[str, Any],
) -> Detection:
    """Put the group that the votes give through the guards."""
    score_N, suspicion_N = hearing.score_N, expit(hearing.log_odds(model))
    is_evaluated_N = np.isfinite(score_N)
    rows = np.flatnonzero(is_evaluated_N)
    is_member_N = suspicion_N[rows] > 0.5
    associations = associate_all(is_member_N, [s.take(rows) for s in evidence.strata.values()])
    explanation = next((item for item in associations if item.explains), None)
    statistics = {
        **statistics,
        "heads": [
            {**voter.to_json(), "sensitivity": float(hit), "specificity": float(reject)}
            for voter, hit, reject in zip(
                panel.voters, model.sensitivity_W, model.specificity_W, strict=True
            )
        ],
        "witness_kappa": panel.witness_kappa,
        "witness_support": panel.witness_support,
        "confounders": {item.name: item.to_json() for item in associations},
        "explained_by": None if explanation is None else explanation.name,
    }
    has_witness = panel.has_witness(config.tcap.min_witness_agreement)
    lacks_witness = panel.witness_support is not None and not has_witness
    found = _panel_text(panel, is_member_N, associations)
    if has_witness:
        found += ", and fine-tuning alone made the same samples' answers likely"
    if explanation is not None and lacks_witness:
        text = f"{found}, but {_NO_WITNESS}. No evidence of poison."
        return nothing_found(_NAME, text, is_evaluated_N, [], statistics)
    doubt = ""
    if explanation is not None:
        doubt = f"the {explanation.kind} may be all that sets these samples apart"
    elif lacks_witness and config.tcap.agree_with:
        doubt = _NO_WITNESS
    elif not has_witness and any(g["explained_by"] is None for g in statistics["other_groups"]):
        doubt = "other heads set other samples apart: such groups are nothing unusual in this data"
    fit = fit_two_gaussians(score_N[rows], seed=config.seed, tail="high")
    mixture = split_at_emptiest(score_N[rows], fit.mixture)
    return judge_mixture(
        _NAME,
        found=found,
        suspects="another allocation of attention",
        doubt=doubt,
        fit=fit,
        mixture=mixture,
        cut=mixture.cut(),
        suspicious_weight=model.prevalence,
        score_N=score_N,
        suspicion_N=suspicion_N,
        overlap_of=lambda flags_N: mean_overlap(
            hearing, flags_N, num_resamples=config.resamples, seed=config.seed
        ),
        is_confirmed=is_chosen(panel.witness_kappa, config.tcap),
        config=config,
        layers=[],
        statistics=statistics,
    )


def _panel_text(
    panel: Panel, is_member_N: NDArray[np.bool_], associations: list[Association]
) -> str:
    layers = sorted({voter.layer for voter in panel.voters})
    text = (
        f"{len(panel.voters)} attention head{'s' if len(panel.voters) > 1 else ''} of "
        f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))} set "
        f"{int(is_member_N.sum())} of {is_member_N.size} samples apart by how they share out "
        "attention"
    )
    named = [found.in_words() for found in associations if found.is_telling]
    return "; ".join([text, *named])


TCAP = Detector(
    name=_NAME,
    detect=detect_tcap,
    reason=Reason.ATTENTION_ALLOCATION,
    score_label="attention of the heads that vote, 0 typical of the many, 1 of the few",
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
