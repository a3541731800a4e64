"""One audit's suspects: grouped, investigated, and everyone who answers like them asked in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bye_audit import schema
from bye_audit.config import ConfirmConfig
from bye_audit.confirm.corpus import SampleText, find_answers, read_texts
from bye_audit.confirm.exhibits import Exhibit, Interrogator, read_exhibits
from bye_audit.confirm.hypotheses import Investigation
from bye_audit.confirm.investigate import (
    NUM_SCREENED,
    GroupFinding,
    find_representatives,
    investigate,
)
from bye_audit.confirm.suspects import SuspectGroup, Suspects, group_suspects
from bye_audit.confirm.sweep import Sweep, SweptSample
from bye_audit.progress import Progress
from bye_audit.schema import Finding, Intervention
from bye_audit.store.reading import sql_text
from bye_audit.store.triggers import read_triggers

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

# Enough to tell what is common among all samples, however many there are.
_NUM_OTHERS = 20_000
# Pictures that a residual is averaged over.
_NUM_PICTURES = 400
_NUM_CANDIDATES = 24
_SWEEP_BATCH = 64
_READ_BATCH = 64
_MAX_PIXELS_HELD = 150_000_000
# Enough for two groups, however small the audit.
_FEWEST_QUESTIONS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group of suspects with their texts, and its place among the groups."""

    index: int
    suspects: SuspectGroup
    texts: Sequence[SampleText]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What one confirm run is about.

    Parameters
    ----------
    tables
        The audit.
    num_scored
        Scored samples.
    suspects
        Whom the detectors name.
    config
        How hard to ask.
    run_id
        Name of the run.
    """

    tables: AuditTables
    num_scored: int
    suspects: Suspects
    config: ConfirmConfig
    run_id: str

    def done(self) -> set[int]:
        """Give the groups that this run has finished before."""
        return {int(row["group"]) for row in read_triggers(self.tables, self.run_id)}

    def group(self) -> tuple[list[Group], list[SampleText]]:
        """Group the suspects by their answers, and draw unsuspicious samples to compare with."""
        numbers = self.suspects.numbers
        rng = np.random.default_rng([self.config.seed, 0xC0F])
        rest = np.setdiff1d(np.arange(self.num_scored), numbers)
        drawn = rng.permutation(rest)[:_NUM_OTHERS]
        texts = read_texts(self.tables, np.concatenate([numbers, drawn]))
        suspected, others = texts[: len(numbers)], texts[len(numbers) :]
        groups = group_suspects(
            [text.answer for text in suspected],
            [text.answer for text in others],
            min_size=self.config.min_group,
            max_groups=self.config.max_groups,
        )
        found = [
            Group(index=i, suspects=group, texts=[suspected[member] for member in group.members])
            for i, group in enumerate(groups)
        ]
        return found, others

    def close(
        self,
        group: Group,
        others: Sequence[SampleText],
        num_groups: int,
        ask: Interrogator,
        progress: Progress,
    ) -> None:
        """Find out what makes a group's answers, sweep if it is a trigger, and write it down."""
        if self._is_spent():
            self._write_trigger(group, GroupFinding(finding=Finding.NOT_ASKED), 0)
            return
        asked_before = ask.counts.total()
        case = self._open(group, others, ask)
        # All bounds hold together with the confidence asked for.
        confidence = 1 - (1 - self.config.confidence) / num_groups
        finding = investigate(case, confidence, self.config)
        # Of the investigation alone: a sweep that is stopped and goes on asks less.
        num_questions = ask.counts.total() - asked_before
        if finding.finding is Finding.CONFIRMED:
            self._sweep(group, finding, case, progress)
        self._write_trigger(group, finding, num_questions)

    def _is_spent(self) -> bool:
        """Whether asking has cost what it may, and all in vain."""
        # Scoring asks the provisional model and its base about each sample.
        allowed = max(_FEWEST_QUESTIONS, self.config.max_share * 2 * self.num_scored)
        rows = read_triggers(self.tables, self.run_id)
        if not rows or any(row["finding"] == Finding.CONFIRMED for row in rows):
            return False
        # The next group will cost about as much as those before.
        asked = [int(json.loads(row["record"])["num_questions"]) for row in rows]
        num_asked = sum(count > 0 for count in asked)
        return sum(asked) * (num_asked + 1) > allowed * num_asked

    def _open(self, group: Group, others: Sequence[SampleText], ask: Interrogator) -> Investigation:
        pattern = group.suspects.pattern
        question = Counter(text.question for text in group.texts).most_common(1)[0][0]
        strangers = [text for text in others if not pattern.matches(text.answer)]
        # An answer that a region shows is right for the same question; a trigger does not care.
        strangers.sort(key=lambda text: text.question == question)
        wanted = NUM_SCREENED + self.config.recipients
        candidates = self._read(group.texts[:_NUM_CANDIDATES])
        return Investigation(
            pattern=pattern,
            representatives=find_representatives(candidates, self.config.representatives, ask),
            members=self._read(group.texts[:_NUM_PICTURES]),
            others=self._read(strangers[:_NUM_PICTURES]),
            questions=[text.question for text in group.texts],
            other_questions=[text.question for text in others],
            recipients=self._read(strangers[:wanted]),
            num_screened=NUM_SCREENED,
            ask=ask,
        )

    def _sweep(
        self, group: Group, finding: GroupFinding, case: Investigation, progress: Progress
    ) -> None:
        """Ask every sample that answers like the group; commit as it goes."""
        tag = f"{self.run_id}/{group.index}"
        # A sample may answer like two groups; what convicts it once is not taken back.
        settled = f"confirm_run = {sql_text(tag)} OR intervention = '{Intervention.TRIGGERED}'"
        asked = self.tables.read_samples(["sample_id"], settled)
        done = set(asked["sample_id"].to_pylist())
        rows = find_answers(self.tables, case.pattern.matches)
        sweep = Sweep(finding.carriers, case.pattern, case.recipients, case.ask)
        with progress.task("Sweeping", len(rows)) as task:
            for start in range(0, len(rows), _SWEEP_BATCH):
                part = rows[start : start + _SWEEP_BATCH]
                exhibits = read_exhibits(self.tables, part, self.tables.version())
                to_do = [exhibit for exhibit in exhibits if exhibit.sample_id not in done]
                self._write_interventions(sweep.judge(to_do), tag)
                task.advance(len(part))

    def _read(self, texts: Sequence[SampleText]) -> list[Exhibit]:
        """Read samples, as many as may be held at once."""
        found: list[Exhibit] = []
        for start in range(0, len(texts), _READ_BATCH):
            rows = [text.row for text in texts[start : start + _READ_BATCH]]
            found += read_exhibits(self.tables, rows, self.tables.version())
            if sum(exhibit.num_pixels for exhibit in found) >= _MAX_PIXELS_HELD:
                break
        return found

    def _write_interventions(self, swept: Sequence[SweptSample], tag: str) -> None:
        import pyarrow as pa

        if not swept:
            return
        columns = {
            "sample_id": pa.array([sample.sample_id for sample in swept], pa.string()),
            "intervention": pa.array([str(s.intervention) for s in swept], pa.string()),
            "intervention_drop": pa.array([sample.drop for sample in swept], pa.float32()),
            "confirm_run": pa.array([tag] * len(swept), pa.string()),
        }
        self.tables.update_samples(pa.table(columns))

    def _write_trigger(self, group: Group, finding: GroupFinding, num_questions: int) -> None:
        import pyarrow as pa

        row = {
            "confirm_run": self.run_id,
            "group": group.index,
            "finding": str(finding.finding),
            "answer": group.suspects.pattern.text,
            "is_whole_answer": group.suspects.pattern.is_whole,
            "kind": finding.carriers[0].kind if finding.carriers else None,
            "num_suspects": len(group.texts),
            "record": json.dumps(
                {**finding.to_json(), "num_questions": num_questions},
                ensure_ascii=False,
                allow_nan=False,
            ),
            "crop": finding.crop_png(),
        }
        found = pa.Table.from_pylist([row], schema=schema.triggers_schema())
        self.tables.append_optional(schema.TRIGGERS, found)
