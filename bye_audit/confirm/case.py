"""One audit's suspects: grouped, investigated, and everyone who answers like them asked in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bye_audit import schema
from bye_audit.config import ConfirmConfig
from bye_audit.confirm.contradicted import find_misled, find_seen
from bye_audit.confirm.corpus import SampleText, find_answers, find_contradicted
from bye_audit.confirm.exhibits import AskedEnoughError, Exhibit, Interrogator, read_exhibits
from bye_audit.confirm.groups import Group
from bye_audit.confirm.hypotheses import Investigation
from bye_audit.confirm.investigate import (
    ASKED_OF_RECIPIENT,
    NUM_SCREENED,
    GroupFinding,
    are_shown,
    find_representatives,
    investigate,
    investigate_misled,
)
from bye_audit.confirm.lookalikes import (
    covered_patches,
    embed_exhibit,
    embed_images,
    find_lookalikes,
)
from bye_audit.confirm.patterns import AnotherAnswer, AnswerPattern
from bye_audit.confirm.suspects import Suspects, describe_answers
from bye_audit.confirm.sweep import Sweep, SweptSample
from bye_audit.confirm.unlearnt import find_unlearnt
from bye_audit.core.patches import choose_queries
from bye_audit.errors import UnsupportedModelError
from bye_audit.progress import Progress
from bye_audit.schema import Finding, Intervention
from bye_audit.store.reading import sql_text
from bye_audit.store.triggers import read_triggers

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables

# Pictures that a residual is averaged over.
_NUM_PICTURES = 400
_NUM_CANDIDATES = 24
# Contradicted samples that are asked at most, to find so many that the model is misled about.
_NUM_CONTRADICTED = 96
_NUM_MISLED = 28
_SWEEP_BATCH = 64
# Convicted samples whose patches say how alike a trigger looks from one to the next.
_NUM_CONVICTED = 32
_READ_BATCH = 64
_MAX_PIXELS_HELD = 150_000_000
# Enough to confirm one group, however small the audit.
_FEWEST_QUESTIONS = 800


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

    def close(
        self,
        group: Group,
        others: Sequence[SampleText],
        num_groups: int,
        ask: Interrogator,
        progress: Progress,
    ) -> None:
        """Find out what makes a group's answers, sweep if it is a trigger, and write it down."""
        asked_before = ask.counts.total()
        left = self._num_left()
        # What is too little for a trial is not begun.
        least = 2 * _NUM_CANDIDATES + ASKED_OF_RECIPIENT * self.config.recipients
        finding, case = GroupFinding(finding=Finding.NOT_ASKED), None
        if left is None or left >= least:
            ask.limit = None if left is None else asked_before + left
            # All bounds hold together with the confidence asked for.
            confidence = 1 - (1 - self.config.confidence) / num_groups
            with suppress(AskedEnoughError):
                finding, case = self._question(group, others, confidence, ask)
            ask.limit = None
        # Of the investigation alone: a sweep that is stopped and goes on asks less.
        num_questions = ask.counts.total() - asked_before
        search: dict[str, Any] | None = None
        if case and finding.finding is Finding.CONFIRMED:
            sweep = Sweep(finding.carriers, case.pattern, case.recipients, ask)
            rows = self._sweep(group, sweep, case, progress)
            if self.config.search and any(carrier.regions for carrier in finding.carriers):
                describe = describe_answers([text.answer for text in others])
                search = self._search(group, sweep, case, rows, describe, progress)
        elif case and finding.finding is Finding.NOT_LEARNT:
            self._mark_unlearnt(group, case)
        self._write_trigger(group, finding, num_questions, search)

    def _num_left(self) -> int | None:
        """Questions that may still be asked in vain; None once something is confirmed."""
        rows = read_triggers(self.tables, self.run_id)
        if any(row["finding"] == Finding.CONFIRMED for row in rows):
            return None
        # Scoring asks the provisional model and its base about each sample.
        allowed = max(_FEWEST_QUESTIONS, int(self.config.max_share * 2 * self.num_scored))
        return allowed - sum(int(json.loads(row["record"])["num_questions"]) for row in rows)

    def _question(
        self, group: Group, others: Sequence[SampleText], confidence: float, ask: Interrogator
    ) -> tuple[GroupFinding, Investigation | None]:
        """Look for what makes the suspects answer as they do."""
        if isinstance(group.pattern, AnotherAnswer):
            return self._question_contradicted(group, group.pattern, others, confidence, ask)
        suspects = self._read(group.texts[:_NUM_CANDIDATES])
        if are_shown(suspects, group.pattern, ask):
            return GroupFinding(finding=Finding.SHOWN), None
        strangers = self._strangers(group, others)
        case = Investigation(
            pattern=group.pattern,
            representatives=find_representatives(suspects, self.config.representatives, ask),
            recipients=self._read(strangers[: NUM_SCREENED + self.config.recipients]),
            num_screened=NUM_SCREENED,
            config=self.config,
            ask=ask,
            members=self._read(group.texts[:_NUM_PICTURES]),
            others=self._read(strangers[:_NUM_PICTURES]),
            questions=[text.question for text in group.texts],
            other_questions=[text.question for text in others],
        )
        return investigate(case, confidence), case

    def _question_contradicted(
        self,
        group: Group,
        pattern: AnotherAnswer,
        others: Sequence[SampleText],
        confidence: float,
        ask: Interrogator,
    ) -> tuple[GroupFinding, Investigation | None]:
        """Look for what makes the model contradict them."""
        suspects = self._read(group.texts[:_NUM_CONTRADICTED])
        misled = find_misled(suspects, _NUM_MISLED, ask, pattern)
        if not misled.exhibits:
            return GroupFinding(finding=Finding.SHOWN), None
        strangers = self._strangers(group, others)
        candidates = self._read(strangers[: NUM_SCREENED + self.config.recipients])
        case = Investigation(
            pattern=pattern,
            representatives=misled.exhibits[: self.config.representatives],
            recipients=find_seen(candidates, ask, pattern),
            num_screened=NUM_SCREENED,
            config=self.config,
            ask=ask,
        )
        return investigate_misled(case, misled, confidence), case

    @staticmethod
    def _strangers(group: Group, others: Sequence[SampleText]) -> list[SampleText]:
        """Give the unsuspicious samples that answer otherwise: those with other questions first."""
        question = Counter(text.question for text in group.texts).most_common(1)[0][0]
        strangers = [text for text in others if not group.pattern.matches(text.answer)]
        # An answer that a region shows is right for the same question; a trigger does not care.
        return sorted(strangers, key=lambda text: text.question == question)

    def _sweep(
        self, group: Group, sweep: Sweep, case: Investigation, progress: Progress
    ) -> list[int]:
        """Ask every sample that answers like the group; commit as it goes; give their rows."""
        done = self._settled(group)
        judge: Callable[[Sequence[Exhibit]], list[SweptSample]]
        if isinstance(case.pattern, AnotherAnswer):
            rows: list[int] = find_contradicted(self.tables)[1].tolist()
            judge = partial(sweep.judge_contradicted, pattern=case.pattern)
        else:
            rows = find_answers(self.tables, case.pattern.matches)
            judge = sweep.judge
        with progress.task("Sweeping", len(rows)) as task:
            for start in range(0, len(rows), _SWEEP_BATCH):
                part = rows[start : start + _SWEEP_BATCH]
                exhibits = read_exhibits(self.tables, part, self.tables.version())
                to_do = [exhibit for exhibit in exhibits if exhibit.sample_id not in done]
                self._write_interventions(judge(to_do), group)
                task.advance(len(part))
        return rows

    def _mark_unlearnt(self, group: Group, case: Investigation) -> None:
        """Write down who was suspected for an answer that the model alone has not learnt."""
        if self.suspects.is_probe or not case.pattern.is_whole:
            return
        suspects = self._read(group.texts)
        self._write_interventions(find_unlearnt(suspects, case.others, case.ask), group)

    def _search(
        self,
        group: Group,
        sweep: Sweep,
        case: Investigation,
        rows: Sequence[int],
        describe: Callable[[str], AnswerPattern],
        progress: Progress,
    ) -> dict[str, Any]:
        """Ask the samples that look as if they had the trigger, the nearest first.

        It ends with the first batch in which nobody has it.
        """
        try:
            embedder = case.ask.patch_embedder()
        except UnsupportedModelError as error:
            return {"skipped": str(error)}
        embed_images(self.tables, embedder, progress)
        covered = [
            covered_patches(embedder, exhibit, own[0])
            for exhibit in self._convicted(group, rows)
            if (own := sweep.find_in(exhibit))
        ]
        strangers = [embed_exhibit(embedder, exhibit) for exhibit in case.recipients]
        queries = choose_queries(covered, strangers)
        alike = find_lookalikes(self.tables, queries, set(rows), self.config.max_suspects)
        done = self._settled(group)
        found: Counter[str] = Counter()
        with progress.task("Asking lookalikes", len(alike)) as task:
            for start in range(0, len(alike), _SWEEP_BATCH):
                part = alike[start : start + _SWEEP_BATCH]
                exhibits = read_exhibits(self.tables, part, self.tables.version())
                to_do = [exhibit for exhibit in exhibits if exhibit.sample_id not in done]
                swept = sweep.judge_lookalikes(to_do, describe)
                having = [sample for sample in swept if sample.intervention is not None]
                self._write_interventions(having, group)
                num_having = len(having) + len(exhibits) - len(to_do)
                found.update(num_asked=len(exhibits), num_having=num_having)
                task.advance(len(part))
                if not num_having:
                    break
        return {"num_queries": len(queries), "num_lookalikes": len(alike), **found}

    def _convicted(self, group: Group, rows: Sequence[int]) -> list[Exhibit]:
        """Read some of the samples that the sweep convicted."""
        settled = self._settled(group, only_triggered=True)
        found: list[Exhibit] = []
        for start in range(0, len(rows), _READ_BATCH):
            exhibits = read_exhibits(
                self.tables, rows[start : start + _READ_BATCH], self.tables.version()
            )
            found += [exhibit for exhibit in exhibits if exhibit.sample_id in settled]
            if len(found) >= _NUM_CONVICTED:
                break
        return found[:_NUM_CONVICTED]

    def _tag(self, group: Group) -> str:
        return f"{self.run_id}/{group.index}"

    def _settled(self, group: Group, *, only_triggered: bool = False) -> set[str]:
        """Give the samples that this group's sweep has asked, and those convicted already."""
        # A sample may answer like two groups; what convicts it once is not taken back.
        word = "AND" if only_triggered else "OR"
        asked = self.tables.read_samples(
            ["sample_id"],
            f"confirm_run = {sql_text(self._tag(group))} {word} "
            f"intervention = '{Intervention.TRIGGERED}'",
        )
        return set(asked["sample_id"].to_pylist())

    def _read(self, texts: Sequence[SampleText]) -> list[Exhibit]:
        """Read samples, as many as may be held at once."""
        found: list[Exhibit] = []
        for start in range(0, len(texts), _READ_BATCH):
            rows = [text.row for text in texts[start : start + _READ_BATCH]]
            found += read_exhibits(self.tables, rows, self.tables.version())
            if sum(exhibit.num_pixels for exhibit in found) >= _MAX_PIXELS_HELD:
                break
        return found

    def _write_interventions(self, swept: Sequence[SweptSample], group: Group) -> None:
        import pyarrow as pa

        if not swept:
            return
        columns = {
            "sample_id": pa.array([sample.sample_id for sample in swept], pa.string()),
            "intervention": pa.array([str(s.intervention) for s in swept], pa.string()),
            "intervention_drop": pa.array([sample.drop for sample in swept], pa.float32()),
            "confirm_run": pa.array([self._tag(group)] * len(swept), pa.string()),
        }
        self.tables.update_samples(pa.table(columns))

    def _write_trigger(
        self,
        group: Group,
        finding: GroupFinding,
        num_questions: int,
        search: dict[str, Any] | None,
    ) -> None:
        import pyarrow as pa

        row = {
            "confirm_run": self.run_id,
            "group": group.index,
            "finding": str(finding.finding),
            "answer": group.pattern.text,
            "is_whole_answer": group.pattern.is_whole,
            "kind": finding.carriers[0].kind if finding.carriers else None,
            "num_suspects": len(group.texts),
            "record": json.dumps(
                {
                    **finding.to_json(),
                    "is_another_answer": isinstance(group.pattern, AnotherAnswer),
                    "num_questions": num_questions,
                    "search": search,
                },
                ensure_ascii=False,
                allow_nan=False,
            ),
            "crop": finding.crop_png(),
        }
        found = pa.Table.from_pylist([row], schema=schema.triggers_schema())
        self.tables.append_optional(schema.TRIGGERS, found)
