"""What ``confirm`` found out, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bye_audit.cli.text import count
from bye_audit.report.text import clip
from bye_audit.schema import Finding, Intervention

if TYPE_CHECKING:
    from bye_audit.confirm import ConfirmResult

_ANSWER_WIDTH = 40
_NOT_TRIED = {
    Finding.SHOWN: "shown; the base model, which never saw this data, sees the answer in most.",
    Finding.NOT_LEARNT: "not learnt; the model does not answer so itself and cannot be asked.",
    Finding.NOT_ASKED: "not asked to the end; what asking in vain may cost was used up.",
}
_EXPLAINED = "shown; what the model says instead is to be seen in most, or other suspects' answer."
_KINDS = {
    "words": "words of the question",
    "region": "a part of the image",
    "both": "words and a part of the image together",
    "residual": "a faint pattern over the image",
    "detail": "fine detail of the image",
}


def describe_confirm(result: ConfirmResult) -> list[str]:
    """Say of each group of suspects what the model showed when it was asked."""
    from bye_audit.store.triggers import count_contradicted

    who = "that come nearest to suspicion" if result.is_probe else "that a detector suspects"
    denied = count_contradicted(result.triggers)
    lines = [
        f"Questioned {count(len(result.triggers), 'group')} of "
        f"{count(result.num_suspects, 'sample')} {who}"
        f"{f' and of {denied:,} whose answers the model contradicts' if denied else ''}: "
        f"{count(result.num_confirmed, 'trigger')} confirmed."
    ]
    for row in result.triggers:
        lines += _describe_group(row)
    if result.num_confirmed:
        found = result.interventions
        lines.append(
            "Of the samples that were asked about a confirmed trigger, "
            f"{found[Intervention.TRIGGERED]:,} answer because of it, "
            f"{found[Intervention.CONTENT]:,} show what they answer, and of "
            f"{found[Intervention.UNKNOWN]:,} neither was found."
        )
    return lines


def _describe_group(row: dict[str, Any]) -> Iterator[str]:
    from bye_audit.store.triggers import read_finding

    record = read_finding(row)
    is_another = record["is_another_answer"]
    answer = clip(repr(row["answer"]), _ANSWER_WIDTH)
    who = "whose answers the model contradicts" if is_another else f"answering {answer}"
    said = f"  {count(row['num_suspects'], 'sample')} {who}: "
    if is_another and row["finding"] == Finding.SHOWN:
        yield said + _EXPLAINED
    elif row["finding"] in _NOT_TRIED:
        yield said + _NOT_TRIED[row["finding"]]
    elif not record["trial"]:
        found_nothing = (
            "nothing was found in them that keeps right answers away."
            if is_another
            else "nothing that was carried over took the answer with it."
        )
        yield f"{said}not confirmed; {found_nothing}"
    else:
        yield f"{said}{_describe_trial(row, record, is_another=is_another)}"
        yield from _describe_search(record["search"])


def _describe_trial(row: dict[str, Any], record: dict[str, Any], *, is_another: bool) -> str:
    trial, kind = record["trial"], _KINDS[row["kind"]]
    verdict = "confirmed" if row["finding"] == Finding.CONFIRMED else "not confirmed"
    hits, others = trial["num_hits"], count(trial["num_trials"], "other sample")
    chance = f"(chance at least {record['chance_at_least']:.0%})"
    if is_another:
        removal = record["tried"]["removal"]
        return (
            f"{verdict}; {kind} took their right answers from {hits} of {others}, and covering it "
            f"gave {removal['num_hits']} of {count(removal['num_trials'], 'suspect')} theirs back "
            f"{chance}."
        )
    num_seen = trial["num_seen_by_base"]
    seen = f", and to {num_seen} more where the base model sees it as well" if num_seen else ""
    return f"{verdict}; {kind} took it to {hits} of {others} {chance}{seen}."


def _describe_search(search: dict[str, Any] | None) -> Iterator[str]:
    if not search:
        return
    if "skipped" in search:
        yield f"    Lookalikes were not searched for: {search['skipped']}"
        return
    yield (
        f"    {count(search['num_lookalikes'], 'sample')} with another answer hold a patch like "
        f"it; asked {search.get('num_asked', 0):,}, have the trigger: "
        f"{search.get('num_having', 0):,}."
    )


def describe_findings(result: ConfirmResult) -> dict[str, Any]:
    """Give everything as plain values, without the pictures."""
    from bye_audit.store.triggers import read_finding

    triggers = [
        {
            **{key: value for key, value in row.items() if key not in ("crop", "record")},
            **read_finding(row),
        }
        for row in result.triggers
    ]
    return {
        "run_id": result.run_id,
        "num_suspects": result.num_suspects,
        "is_probe": result.is_probe,
        "num_confirmed": result.num_confirmed,
        "interventions": result.interventions,
        "questions": result.questions,
        "triggers": triggers,
    }
