"""What a canary is going to do, found out and said before hours are spent on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bye_audit.canary.judging import detectors_to_try
from bye_audit.canary.results import CellResult
from bye_audit.canary.subjects import Subjects
from bye_audit.config import CanaryConfig, ConfirmConfig, DetectConfig, FinetuneConfig
from bye_audit.errors import ConfigError, StageNotRunError
from bye_audit.finetune import NOT_IN_FINGERPRINT
from bye_audit.poison.attacks import ATTACKS
from bye_audit.store.border import storage_errors
from bye_audit.store.whole_files import read_json, write_json

if TYPE_CHECKING:
    from bye_audit.planning import Plan
    from bye_audit.poison.planting import Planting
    from bye_audit.store.tables import AuditTables

_SETTINGS, _NOTE, _RESULT = "settings.json", "README.txt", "result.json"
_NOTE_TEXT = """\
Written by `bye-audit canary`: copies of an audit with KNOWN POISON planted in them, and adapters
trained on them. Train nothing on these copies and ship none of these adapters. `truth.json` beside
a copy says which of its samples are planted. The copies refer to the images of the audit they were
made of. Nothing else needs this folder: it can be deleted when the results have been read.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One attack at one rate: one copy, one training."""

    attack: str
    rate: float

    @property
    def name(self) -> str:
        """Name for people and for its folder."""
        return f"{self.attack}-{self.rate!r}"

    def plant(self, subjects: Subjects, config: CanaryConfig) -> Planting:
        """Decide the fate of every sample that can carry poison.

        Raises
        ------
        ConfigError
            If the rate poisons no sample, or more than the attack can use.
        """
        num_able = len(subjects.rows)
        if round(self.rate * num_able) == 0:
            raise ConfigError(
                f"{self.rate:g} of {num_able} samples that can carry poison is none.",
                hint=f"The lowest rate that plants one here is {1 / num_able:.2g}.",
            )
        spec = ATTACKS[self.attack]
        attack = spec.build(poison_rate=self.rate, relative_size=config.relative_size)
        try:
            return attack.plan(subjects.answers, config.seed)
        except ConfigError as error:
            raise ConfigError(
                f"{self.attack} cannot be planted at rate {self.rate:g}: {error.message}",
                hint=error.hint,
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanaryPlan:
    """What a canary is going to do.

    Parameters
    ----------
    out_dir
        Where the copies and the results go.
    model, finetune
        What is trained, and how.
    subjects
        The audit's samples.
    suspected_by
        The detector of the audit's last verdict; None where there is none.
    cells
        One training each.
    todo
        Those without a result yet.
    judged_with
        What the verdicts depend on besides the scores.
    confirm
        How the copies are confirmed, as the audit was; None where it was not.
    training
        What one training and scoring takes; None where nothing is to do.
    """

    out_dir: Path
    model: str
    finetune: FinetuneConfig
    subjects: Subjects
    suspected_by: str | None
    cells: tuple[Cell, ...]
    todo: tuple[Cell, ...]
    judged_with: dict[str, Any]
    confirm: ConfirmConfig | None
    training: Plan | None

    @property
    def seconds(self) -> float | None:
        """Time of all trainings and scorings to do; None where it was not measured."""
        plan = self.training
        if plan is None or plan.finetune_seconds is None or plan.score_seconds is None:
            return None
        return len(self.todo) * (plan.finetune_seconds + plan.score_seconds)

    @property
    def warnings(self) -> list[str]:
        """What will not fit, one sentence each."""
        plan = self.training
        if plan is None:
            return []
        found = list(plan.warnings)
        needed = len(self.todo) * (plan.finetune_disk + plan.score_disk)
        if needed > plan.free_disk:
            found.append(f"All {len(self.todo)} copies together need more room than is free.")
        return found


def known_model(tables: AuditTables) -> str:
    """Name the base model of the audit's last fine-tuning.

    Raises
    ------
    StageNotRunError
        If there was none.
    """
    run = tables.latest_run("finetune")
    if run is None:
        raise StageNotRunError(
            f"{tables.uri} was not fine-tuned on yet, so no provisional model is known.",
            hint=f"Name one with --model MODEL, or run `bye-audit finetune {tables.uri}` first.",
        )
    return str(run.record["model"])


def finetune_settings(
    tables: AuditTables, wanted: FinetuneConfig | Mapping[str, Any] | None
) -> FinetuneConfig:
    """Settle how to train: as the last fine-tuning of the audit did, but for what is wanted.

    Parameters
    ----------
    tables
        The audit.
    wanted
        Whole settings, or single ones by name, or nothing.
    """
    if isinstance(wanted, FinetuneConfig):
        return wanted
    run = tables.latest_run("finetune")
    stored = {} if run is None else run.record["hyper_parameters"]
    known = {item.name for item in fields(FinetuneConfig)}
    # A record of another version may have settings that this one lacks.
    last = FinetuneConfig(**{name: value for name, value in stored.items() if name in known})
    return replace(last, **dict(wanted or {}))


def confirm_settings(tables: AuditTables) -> ConfirmConfig | None:
    """Give the settings of the audit's last ``confirm``; None where there was none."""
    run = tables.latest_run("confirm")
    return None if run is None else ConfirmConfig(**run.record["config"])


def choose_cells(config: CanaryConfig) -> tuple[Cell, ...]:
    """List attacks in the order of their naming, each at rising rates.

    Raises
    ------
    ConfigError
        If there is no attack of a name.
    """
    unknown = [name for name in config.attacks if name not in ATTACKS]
    if unknown:
        raise ConfigError(
            f"There is no attack {unknown[0]!r}.", hint=f"Choose among: {', '.join(ATTACKS)}."
        )
    return tuple(
        Cell(attack, float(rate))
        for attack in dict.fromkeys(config.attacks)
        for rate in sorted(set(config.rates))
    )


def choose_folder(tables: AuditTables, out_dir: Path | None) -> Path:
    """Settle where the copies go: beside the audit, unless another folder is named.

    Raises
    ------
    ConfigError
        If that is inside the audit, a file, or a folder of something else.
    """
    typed, audit_dir = Path(tables.uri), Path(tables.uri).resolve()
    beside = audit_dir if typed.name in ("", "..") else typed
    chosen = out_dir or beside.with_name(f"{beside.name}-canary")
    hint = "Name another folder with --out."
    if chosen.resolve() == audit_dir or audit_dir in chosen.resolve().parents:
        raise ConfigError(f"{chosen} is inside the audit, which is only read.", hint=hint)
    if chosen.exists() and not chosen.is_dir():
        raise ConfigError(f"{chosen} is a file.", hint=hint)
    with storage_errors(f"make the folder {chosen}"):
        chosen.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in chosen.iterdir() if not entry.name.startswith(".")}
    if names and _SETTINGS not in names:
        raise ConfigError(f"{chosen} holds files, but no canary.", hint=hint)
    return chosen


def claim_folder(
    out_dir: Path,
    tables: AuditTables,
    subjects: Subjects,
    config: CanaryConfig,
    model: str,
    finetune: FinetuneConfig,
) -> None:
    """Keep a folder for one audit and one set of settings; attacks and rates may be added.

    Raises
    ------
    ConfigError
        If it was begun with others.
    """
    from bye_audit.model.files import model_digest

    training = {k: v for k, v in asdict(finetune).items() if k not in NOT_IN_FINGERPRINT}
    settings = {
        # The copies refer to the images that lie there.
        "audit": str(Path(tables.uri).resolve()),
        "samples": tables.content_digest(),
        "suspected samples": subjects.suspected_digest(),
        "model": model_digest(model),
        "seed": config.seed,
        "relative size": config.relative_size,
        "held-out share": config.held_out_share,
        "most held out": config.max_held_out,
        **{f"finetune {name}": value for name, value in training.items()},
    }
    path = out_dir / _SETTINGS
    stored = read_json(path)
    if stored is None and path.exists():
        raise ConfigError(
            f"{path} no longer says what {out_dir} was made with.",
            hint="Delete the folder, or name another with --out.",
        )
    if stored is None:
        with storage_errors(f"write to {out_dir}"):
            (out_dir / _NOTE).write_text(_NOTE_TEXT, encoding="utf-8")
        write_json(path, settings)
        return
    differing = [name for name in settings if stored.get(name) != settings[name]]
    if differing:
        details = "; ".join(f"{k}: {stored.get(k)}, now {settings[k]}" for k in differing)
        raise ConfigError(
            f"{out_dir} holds a canary with other settings ({details}).",
            hint="Name another folder with --out, or delete that one.",
        )


def judged_with(tables: AuditTables, detect: DetectConfig) -> dict[str, Any]:
    """Say what a verdict about a copy depends on besides its scores; JSON values only."""
    scored, confirmed = tables.latest_run("score"), tables.latest_run("confirm")
    return {
        # As it will be read back: JSON knows no tuples.
        "detect": json.loads(json.dumps(asdict(detect))),
        "detectors": list(detectors_to_try()),
        "score_run": None if scored is None else scored.run_id,
        "confirm_run": None if confirmed is None else confirmed.run_id,
    }


def read_result(folder: Path, judged: Mapping[str, Any]) -> CellResult | None:
    """Read a finished result that was judged in this way; None if there is none."""
    found = read_json(folder / _RESULT)
    if found is None or found.get("judged_with") != dict(judged):
        return None
    try:
        return CellResult.from_json(found["result"])
    except (KeyError, TypeError, ValueError):
        # Of another version: it is judged again.
        return None


def write_result(folder: Path, result: CellResult, judged: Mapping[str, Any]) -> None:
    """Keep a result with what it was judged with."""
    write_json(folder / _RESULT, {"judged_with": dict(judged), "result": asdict(result)})
