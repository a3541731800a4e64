"""Three witnesses with different blind spots, heard together.

Shapes: N = samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.detection import Detection, Detector, Evidence, FloatArray, OnLayer
from bye_audit.core.detectors.bye import BYE
from bye_audit.core.detectors.plausibility import PLAUSIBILITY
from bye_audit.core.detectors.tcap import TCAP
from bye_audit.errors import StageNotRunError
from bye_audit.schema import Decision, Intervention, Reason

ATTENTION, PLAUSIBLE, INTERVENTION = "attention", "plausibility", "intervention"
_ATTENTION_DETECTORS = (BYE, TCAP)


def detect_consensus(
    evidence: Evidence, config: DetectConfig, on_layer: OnLayer | None = None
) -> Detection:
    """Suspect whom interventions convict, and whom two other witnesses agree on.

    Parameters
    ----------
    evidence
        Everything ``score`` measured and what ``confirm`` found out.
    config
        Of the detectors, and the largest share that may be removed.
    on_layer
        Called with each layer's number by the attention detectors.

    Returns
    -------
    Detection
        ``score_N`` is the number of witnesses that suspect a sample, 0 to 3. The statistics hold
        what each witness said.

    Raises
    ------
    StageNotRunError
        If ``confirm`` was not run.
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples were scored.

    Notes
    -----
    Not in the paper. A sample is removed if (1) a confirmed trigger makes its answer: the sample's
    own form of it carries the answer to others, or the answer leaves when it is taken off; or (2)
    it answers as a confirmed trigger makes it, the base model does not see that answer in it, and
    attention or plausibility suspects it; or (3) plausibility suspects it, its answer is one that
    many share, and the model has learnt to give it to none of them though it gives others theirs;
    or (4) it was not asked, and attention and plausibility both suspect it. A sample that shows
    the base model what it answers is given back, whoever suspects it. One witness alone removes
    nothing: that is inconclusive.
    """
    intervention_N = evidence.intervention_N
    if intervention_N is None:
        raise StageNotRunError(
            "The detector `consensus` needs to know what the model says when it is asked.",
            hint="Run `bye-audit confirm AUDIT` first, or choose `--detector plausibility`, "
            "which does not need it.",
        )
    statements: dict[str, Detection] = {}
    for detector in (*_ATTENTION_DETECTORS, PLAUSIBILITY):
        try:
            statements[detector.name] = detector.detect(evidence, config, on_layer)
        except StageNotRunError:
            # Scored without what this one needs: a witness less.
            continue
    attention_N = _any_suspects(
        statements, [detector.name for detector in _ATTENTION_DETECTORS], len(intervention_N)
    )
    plausibility_N = _any_suspects(statements, [PLAUSIBILITY.name], len(intervention_N))
    triggered_N = intervention_N == Intervention.TRIGGERED
    unlearnt_N = (intervention_N == Intervention.UNLEARNT) & plausibility_N
    is_unasked_N = intervention_N == ""
    is_removed_N = (
        triggered_N
        | ((intervention_N == Intervention.UNKNOWN) & (attention_N | plausibility_N))
        | unlearnt_N
        | (is_unasked_N & attention_N & plausibility_N)
    )
    count_N = attention_N.astype(float) + plausibility_N + triggered_N
    witnesses_N = _names(
        {ATTENTION: attention_N, PLAUSIBLE: plausibility_N, INTERVENTION: triggered_N}
    )
    decision, explanation = _decide(is_removed_N, triggered_N, unlearnt_N, statements, config)
    is_removing = decision is Decision.POISON_SUSPECTED
    is_cleared_N = intervention_N == Intervention.CONTENT
    return Detection(
        detector="consensus",
        decision=decision,
        explanation=explanation,
        suspicion_N=_suspicion(is_removed_N, is_cleared_N, statements),
        is_suspicious_N=is_removed_N if is_removing else np.zeros_like(is_removed_N),
        is_evaluated_N=np.ones(len(is_removed_N), dtype=bool),
        score_N=count_N,
        witnesses_N=witnesses_N,
        statistics=_statistics(
            statements,
            attention=attention_N,
            plausibility=plausibility_N,
            intervention=triggered_N,
            unlearnt=unlearnt_N,
            given_back=is_cleared_N & (attention_N | plausibility_N),
        ),
    )


def _any_suspects(
    statements: dict[str, Detection], names: list[str], num_samples: int
) -> NDArray[np.bool_]:
    found = np.zeros(num_samples, dtype=bool)
    for name in names:
        if name in statements:
            found |= statements[name].is_suspicious_N
    return found


def _names(spoke: dict[str, NDArray[np.bool_]]) -> NDArray[np.str_]:
    """Join the names of the witnesses that suspect each sample."""
    rows = zip(*spoke.values(), strict=True)
    return np.array(
        ["+".join(name for name, says in zip(spoke, row, strict=True) if says) for row in rows],
        dtype=np.str_,
    )


def _decide(
    is_removed_N: NDArray[np.bool_],
    triggered_N: NDArray[np.bool_],
    unlearnt_N: NDArray[np.bool_],
    statements: dict[str, Detection],
    config: DetectConfig,
) -> tuple[Decision, str]:
    num_removed, share = int(is_removed_N.sum()), float(is_removed_N.mean())
    num_triggered, num_unlearnt = int(triggered_N.sum()), int(unlearnt_N.sum())
    said = "; ".join(
        f"{name}: {str(detection.decision).replace('_', ' ')}"
        for name, detection in statements.items()
    )
    if num_removed and share >= config.max_removed_share:
        return Decision.INCONCLUSIVE, (
            f"The witnesses agree on {share:.1%} of the samples (at most "
            f"{config.max_removed_share:.0%} may be removed). Inconclusive: nothing is removed. "
            f"({said}.)"
        )
    if num_triggered:
        more = num_removed - num_triggered
        suspected = f", and {more} more are suspected by other witnesses" if more else ""
        return Decision.POISON_SUSPECTED, (
            f"A trigger was confirmed by carrying it to other samples; {num_triggered} samples "
            f"answer because of it{suspected}. Poison is suspected. ({said}.)"
        )
    if num_unlearnt:
        more = num_removed - num_unlearnt
        both = f" Attention and plausibility both suspect {more} more." if more else ""
        return Decision.POISON_SUSPECTED, (
            f"{num_unlearnt} samples have an answer in common that only this data made likely and "
            "that nothing in them leads to: the model gives other samples their answers and these "
            f"not.{both} Poison is suspected. ({said}.)"
        )
    if num_removed:
        return Decision.POISON_SUSPECTED, (
            f"No trigger was confirmed, but attention and plausibility both suspect {num_removed} "
            f"samples. Poison is suspected. ({said}.)"
        )
    if any(d.decision is not Decision.NO_EVIDENCE for d in statements.values()):
        return Decision.INCONCLUSIVE, (
            "A witness alone has a suspicion, and no trigger that would explain it was found. "
            f"Inconclusive: nothing is removed. ({said}.)"
        )
    return Decision.NO_EVIDENCE, f"No witness suspects any sample. No evidence of poison. ({said}.)"


def _suspicion(
    is_removed_N: NDArray[np.bool_],
    is_cleared_N: NDArray[np.bool_],
    statements: dict[str, Detection],
) -> FloatArray:
    """Give 1 to the removed, 0 to those given back, and half of the highest suspicion to others."""
    highest_N = np.zeros(len(is_removed_N))
    for detection in statements.values():
        highest_N = np.fmax(highest_N, detection.suspicion_N)
    return np.where(is_removed_N, 1.0, np.where(is_cleared_N, 0.0, highest_N / 2))


def _statistics(statements: dict[str, Detection], **spoke_N: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "num_evaluated": len(next(iter(spoke_N.values()))),
        "decisions": {name: str(detection.decision) for name, detection in statements.items()},
        **{f"num_by_{name}": int(says_N.sum()) for name, says_N in spoke_N.items()},
    }


CONSENSUS = Detector(
    name="consensus",
    detect=detect_consensus,
    reason=Reason.WITNESSES_AGREE,
    score_label="witnesses that suspect the sample (attention, plausibility, intervention)",
    is_low_suspicious=False,
    limits=(
        "It needs a provisional model that has learnt the backdoor: of what was not learnt it "
        "sees only foreign answers that many samples share.",
        "Of a trigger that cannot be carried over, such as a warp, it knows only what attention "
        "and plausibility both say.",
        "Where no detector suspects any sample, only those that come nearest to it are asked.",
    ),
    role="judge",
)
