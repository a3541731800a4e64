"""What the model showed when it was asked, for the page: groups, pictures and where they sit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bye_audit.report.pictures import Picture, draw_crop
from bye_audit.report.text import clip
from bye_audit.schema import Finding, Intervention

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

MAX_ANSWER = 240
MAX_BOXES = 4
_TITLES = {
    Finding.CONFIRMED: "Trigger confirmed",
    Finding.UNCONFIRMED: "Not confirmed",
    Finding.SHOWN: "Shown",
    Finding.NOT_LEARNT: "Not learnt",
    Finding.NOT_ASKED: "Not asked",
}
_NOT_TRIED = {
    Finding.NOT_LEARNT: "The provisional model does not answer so itself and cannot be asked why.",
    Finding.NOT_ASKED: "What asking in vain may cost was used up before there was a finding.",
}
_DONE = {
    "region": "A part of the image, put into the same place of",
    "words": "Words of the question, put into the questions of",
    "both": "Words of the question and a part of the image, put together on",
    "residual": "What the suspects' images have in common, added to the images of",
    "detail": "The fine detail of an image, put on",
}


_NO_ONE_ANSWER = "each another than the model's"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sayings:
    """How a group with one kind of answer is told of."""

    who: str
    shown: str
    nothing: str
    made: str
    control: str
    seen: str
    unseen: str


_THIS = _Sayings(
    who="{number:,} suspects answer so. ",
    shown="The base model, which never saw this data, sees the answer in most of them.",
    nothing="Nothing in these samples takes the answer along when it is put on others.",
    made="made the model give this answer to",
    control="none of them gave this answer.",
    seen="the base model said the same: what was put there shows what the answer says.",
    unseen="The base model saw nothing of what the answer says in any of these.",
)
_ANOTHER = _Sayings(
    who="The model contradicts the answers of {number:,} samples. ",
    shown="What the model says instead the base model, which never saw this data, sees in most of "
    "them, or it is what other suspects answer.",
    nothing="Nothing in these samples keeps right answers away when it is put on others.",
    made="took their right answers from",
    control="all of them kept theirs.",
    seen="the base model no longer saw the right answer either.",
    unseen="The base model still saw the right answer in all of these.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupShown:
    """One group of suspects as the page shows it; ``answer`` and ``words`` are the dataset's."""

    title: str
    is_confirmed: bool
    answer: str
    answer_label: str
    text: str
    base_text: str
    words: list[str]
    crop: Picture | None
    boxes: list[dict[str, str]]
    """Where the part sits, in hundredths of the image's sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterventionsShown:
    """The whole section."""

    text: str
    groups: list[GroupShown]
    numbers: list[dict[str, str]]


def gather_interventions(
    tables: AuditTables, provenance: Mapping[str, Any]
) -> InterventionsShown | None:
    """Read what ``confirm`` found out.

    Parameters
    ----------
    tables
        After ``filter``.
    provenance
        The record that ``filter`` wrote.

    Returns
    -------
    InterventionsShown or None
        None where ``confirm`` was not run to its end on the present scores.
    """
    from bye_audit.store.triggers import finished_confirm_run, read_triggers

    run = finished_confirm_run(tables)
    if run is None:
        return None
    confidence = float(run.record["config"]["confidence"])
    rows = read_triggers(tables, run.run_id)
    groups = [_show_group(row, confidence) for row in rows]
    has_confirmed = any(group.is_confirmed for group in groups)
    return InterventionsShown(
        text=_introduce(run.record, rows),
        groups=groups,
        numbers=_count(run.record["interventions"], provenance) if has_confirmed else [],
    )


def describe_intervention(row: Mapping[str, Any]) -> Iterator[str]:
    """Say of one sample which witnesses spoke and what it showed when it was asked."""
    if row.get("witnesses"):
        yield "suspected by " + ", ".join(str(row["witnesses"]).split("+"))
    if row.get("intervention") == Intervention.TRIGGERED:
        yield "answers because of the trigger"
    elif row.get("intervention") == Intervention.CONTENT:
        yield "the base model sees its answer in it"
    elif row.get("intervention") == Intervention.UNKNOWN:
        yield "answers like the trigger; why was not found"
    elif row.get("intervention") == Intervention.UNLEARNT:
        yield "the model does not give its answer, and others theirs"


def _introduce(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    from bye_audit.store.triggers import count_contradicted

    denied = count_contradicted(rows)
    number = int(record["num_suspects"])
    who = (
        f"No detector suspects any sample, so the {number:,} nearest to it were questioned."
        if record["is_probe"]
        else f"Detectors suspect {number:,} samples; those that answer alike were questioned as "
        "one group."
    )
    if denied:
        who += f" So were {denied:,} samples whose answers the model contradicts."
    return (
        f"{who} What may have made a group's answer was looked for in its samples, put on other "
        "samples, and the provisional model was asked again. A trigger takes its answer along; "
        "ordinary content does so only if it shows what the answer says, and then the base model, "
        "which never saw this data, sees it too."
    )


def _show_group(row: Mapping[str, Any], confidence: float) -> GroupShown:
    from bye_audit.store.triggers import read_finding

    record = read_finding(row)
    finding = Finding(row["finding"])
    is_another = record["is_another_answer"]
    label = "Answer" if row["is_whole_answer"] else "Words in the answers"
    parts = list(_parts(record["carriers"]))
    boxes = list(dict.fromkeys(tuple(part["box"].values()) for part in parts if "box" in part))
    words = dict.fromkeys(str(part["words"]) for part in parts if "words" in part)
    return GroupShown(
        title=_TITLES[finding],
        is_confirmed=finding is Finding.CONFIRMED,
        answer=_NO_ONE_ANSWER if is_another else clip(str(row["answer"]), MAX_ANSWER),
        answer_label="Answers" if is_another else label,
        text=_tell(row, record, finding, confidence),
        base_text=_tell_of_base(record),
        words=[clip(text, MAX_ANSWER) for text in words],
        crop=draw_crop(row["crop"]) if row["crop"] else None,
        boxes=[
            {
                name: f"{100 * value:.2f}"
                for name, value in zip(("y", "x", "height", "width"), box, strict=True)
            }
            for box in boxes[:MAX_BOXES]
        ],
    )


def _parts(carriers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for carrier in carriers:
        yield from carrier.get("parts", [carrier])


def _sayings(record: Mapping[str, Any]) -> _Sayings:
    return _ANOTHER if record["is_another_answer"] else _THIS


def _tell(
    row: Mapping[str, Any], record: Mapping[str, Any], finding: Finding, confidence: float
) -> str:
    says = _sayings(record)
    who = says.who.format(number=row["num_suspects"])
    if finding is Finding.SHOWN:
        return who + says.shown
    if finding in _NOT_TRIED:
        return who + _NOT_TRIED[finding]
    trial = record["trial"]
    if not trial:
        return who + says.nothing
    text = (
        f"{who}{_DONE[row['kind']]} {trial['num_trials']:,} other samples, "
        f"{says.made} {trial['num_hits']:,} of them ({trial['rate']:.0%})."
    )
    if finding is Finding.CONFIRMED:
        return (
            f"{text} It works in at least {record['chance_at_least']:.0%} of all cases: an exact "
            f"bound that holds with {confidence:.0%} confidence for all groups together. Without "
            f"it, or with ordinary content in its place, {says.control}"
            + _tell_of_removal(record["tried"].get("removal"))
            + _tell_of_search(record["search"])
        )
    return text + " That is too little for a trigger."


def _tell_of_removal(removal: Mapping[str, Any] | None) -> str:
    if not removal:
        return ""
    return (
        f" Once it is covered, the model says of {removal['num_hits']:,} of "
        f"{removal['num_trials']:,} suspects what the base model says; the bound holds for both."
    )


def _tell_of_search(search: Mapping[str, Any] | None) -> str:
    if not search:
        return ""
    if "skipped" in search:
        return f" Other samples that look like it were not looked for: {search['skipped']}"
    return (
        f" {search['num_lookalikes']:,} samples that answer something else hold a patch that looks "
        f"like it; {search.get('num_asked', 0):,} of them were asked and "
        f"{search.get('num_having', 0):,} have the trigger."
    )


def _tell_of_base(record: Mapping[str, Any]) -> str:
    trial, says = record["trial"], _sayings(record)
    if not trial or not trial["num_trials"]:
        return ""
    if trial["num_seen_by_base"]:
        return f"In {trial['num_seen_by_base']:,} more {says.seen}"
    return says.unseen if trial["num_hits"] else ""


def _count(interventions: Mapping[str, int], provenance: Mapping[str, Any]) -> list[dict[str, str]]:
    statistics = provenance["detector"]["statistics"]
    given_back = int(statistics.get("num_by_given_back", 0))
    rows = [
        (
            "Answer because of it",
            Intervention.TRIGGERED,
            "the answer goes where the trigger goes",
            "alarm",
        ),
        (
            "Show what they answer",
            Intervention.CONTENT,
            f"{given_back:,} of them suspected and given back" if given_back else "kept",
            "",
        ),
        ("Neither was found", Intervention.UNKNOWN, "removed if another witness suspects them", ""),
    ]
    return [
        {"label": label, "value": f"{interventions[kind]:,}", "remark": remark, "kind": tone}
        for label, kind, remark, tone in rows
    ]
