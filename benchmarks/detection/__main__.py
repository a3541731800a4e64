"""Make the cells of the record, judge them, retrain, and write the tables and figures.

``python -m benchmarks.detection make ...``; docs/detection.md goes through the steps.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.detection.cells import CLEAN, DATASETS, Cell, MadeCell, find_cells, make_cell
from benchmarks.detection.judge import find_judged, judge, purify
from benchmarks.detection.record import RESULTS, read_record, write_record
from benchmarks.detection.retrain import Training, plan_trainings, retrain
from benchmarks.detection.variants import VARIANTS
from benchmarks.detection.workers import run_each
from bye_audit.cli.progress import make_progress
from bye_audit.errors import ByeAuditError, ConfigError
from bye_audit.pipeline import EMBEDDED_MODEL
from bye_audit.poison.attacks import ATTACKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the steps and give its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ByeAuditError as error:
        print(f"{error.message} {error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmark-detection"))
    parser.add_argument(
        "--record", type=Path, help="Parquet file of the rows (default: in --out, of its cells)"
    )
    steps = parser.add_subparsers(dest="step", required=True)

    make = steps.add_parser("make", help="train and score provisional models")
    make.add_argument("--model", default=EMBEDDED_MODEL, help="folder or hub id (default: mini)")
    make.add_argument("--dataset", "--data", choices=DATASETS, nargs="+", default=["scenes"])
    make.add_argument("--data-dir", type=Path, help="folder with one of the paper's datasets")
    make.add_argument("--attacks", nargs="+", choices=[*ATTACKS, CLEAN], default=list(ATTACKS))
    make.add_argument("--rates", type=float, nargs="+", default=[0.1])
    make.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    make.add_argument("--jobs", type=int, default=1, help="cells at once, one core each")
    make.set_defaults(run=_make)

    judged = steps.add_parser("judge", help="put every detector before every finished cell")
    judged.add_argument("--clean-runs", type=int, default=25, help="halves of each clean cell")
    judged.add_argument("--jobs", type=int, default=1, help="cells at once, one core each")
    judged.set_defaults(run=_judge)

    purified = steps.add_parser("purify", help="give zip its evidence; takes as long as scoring")
    _add_choice(purified)
    purified.add_argument("--jobs", type=int, default=1, help="cells at once, one core each")
    purified.set_defaults(run=_purify)

    again = steps.add_parser("retrain", help="fine-tune again on what a detector kept")
    again.add_argument("--variants", nargs="+", choices=VARIANTS, default=["consensus"])
    _add_choice(again)
    again.add_argument("--data-dir", type=Path, help="folder with one of the paper's datasets")
    again.add_argument("--jobs", type=int, default=1, help="trainings at once, one core each")
    again.add_argument("--dry-run", action="store_true", help="only say what would be trained")
    again.set_defaults(run=_retrain)

    tables = steps.add_parser("tables", help="print the record's tables, or write them")
    tables.add_argument("--write", type=Path, help="page whose marked places to fill")
    tables.set_defaults(run=_tables)

    figures = steps.add_parser("figures", help="draw the figures as SVG")
    figures.add_argument("--write", type=Path, default=Path("docs/figures"), help="folder")
    figures.set_defaults(run=_figures)

    one = steps.add_parser("one", help="train and score one provisional model here")
    one.add_argument("cell")
    one.add_argument("--data-dir", type=Path)
    one.set_defaults(run=_make_one)
    judge_one = steps.add_parser("judge-one", help="judge one cell here")
    judge_one.add_argument("cell")
    judge_one.add_argument("--clean-runs", type=int, default=25)
    judge_one.set_defaults(run=_judge_one)
    purify_one = steps.add_parser("purify-one", help="purify one cell here")
    purify_one.add_argument("cell")
    purify_one.set_defaults(run=_purify_one)
    retrain_one = steps.add_parser("retrain-one", help="do one training here")
    retrain_one.add_argument("digest")
    retrain_one.add_argument("--variants", nargs="+", required=True)
    retrain_one.add_argument("--cells", nargs="+", required=True)
    retrain_one.add_argument("--data-dir", type=Path)
    retrain_one.set_defaults(run=_retrain_one)
    return parser


def _make(options: argparse.Namespace) -> int:
    grid = itertools.product(options.seeds, options.rates, options.dataset, options.attacks)
    cells = [
        Cell(data=data, attack=attack, rate=rate, seed=seed, model=options.model)
        for seed, rate, data, attack in grid
    ]
    known = {made.cell for made in find_cells(options.out)}
    to_do = [cell for cell in cells if cell not in known]
    for name in options.dataset:
        _require_needs([cell for cell in to_do if cell.data == name], options)
    calls = [(cell.name, ["one", cell.name, *_data_dir(options)]) for cell in to_do]
    return min(1, run_each(options.out, calls, options.jobs))


def _require_needs(cells: list[Cell], options: argparse.Namespace) -> None:
    """Say what another model or dataset needs, and stop if it is not there."""
    from benchmarks.detection.cells import OWN_DATASETS
    from benchmarks.detection.needs import measure_needs, require

    if not cells or (cells[0].model == EMBEDDED_MODEL and cells[0].data in OWN_DATASETS):
        return
    needs = measure_needs(cells, options.out, options.data_dir)
    print(needs.sentence, flush=True)
    require(needs)


def _data_dir(options: argparse.Namespace) -> list[str]:
    return [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]


def _make_one(options: argparse.Namespace) -> int:
    cell = Cell.parse(options.cell)
    print(make_cell(cell, options.out, options.data_dir, make_progress()).record)
    return 0


def _judge(options: argparse.Namespace) -> int:
    runs = options.clean_runs
    to_do = [made for made in find_cells(options.out) if find_judged(made, runs) is None]
    calls = [
        (made.cell.name, ["judge-one", made.cell.name, "--clean-runs", str(runs)]) for made in to_do
    ]
    num_failed = run_each(options.out, calls, options.jobs)
    num_left_out = write_record(options.out, options.record)
    if num_left_out:
        print(f"{num_left_out} cells have no new rows in the record, because judging them failed.")
    return min(1, num_failed)


def _judge_one(options: argparse.Namespace) -> int:
    judge(_find_cell(options.out, options.cell), options.clean_runs, make_progress())
    return 0


def _find_cell(out: Path, name: str) -> MadeCell:
    found = next((made for made in find_cells(out) if made.cell.name == name), None)
    if found is None:
        raise ConfigError(f"There is no finished cell {name}.", hint=f"See the folders in {out}.")
    return found


def _add_choice(step: argparse.ArgumentParser) -> None:
    step.add_argument("--attacks", nargs="+", choices=[*ATTACKS, CLEAN])
    step.add_argument("--rates", type=float, nargs="+")
    step.add_argument("--seeds", type=int, nargs="+")


def _choose_cells(options: argparse.Namespace) -> list[MadeCell]:
    wanted = {"attack": options.attacks, "rate": options.rates, "seed": options.seeds}
    return [
        made
        for made in find_cells(options.out)
        if all(given is None or getattr(made.cell, name) in given for name, given in wanted.items())
    ]


def _purify(options: argparse.Namespace) -> int:
    calls = [(made.cell.name, ["purify-one", made.cell.name]) for made in _choose_cells(options)]
    return min(1, run_each(options.out, calls, options.jobs))


def _purify_one(options: argparse.Namespace) -> int:
    purify(_find_cell(options.out, options.cell), make_progress())
    return 0


def _retrain(options: argparse.Namespace) -> int:
    chosen = [made for made in _choose_cells(options) if made.cell.attack != CLEAN]
    trainings = plan_trainings(chosen, options.variants)
    to_do = [training for training in trainings if training.unmeasured(options.out)]
    num_cells = sum(len(training.cells) for training in trainings)
    num_trained = sum(training.is_trained(options.out) for training in trainings)
    print(
        f"{len(trainings)} trainings serve {num_cells} cells; {num_trained} are done, "
        f"{len(to_do)} have triggers to try.",
        flush=True,
    )
    if options.dry_run:
        return 0
    calls = [_retrain_call(training, options) for training in to_do]
    num_failed = run_each(options.out, calls, options.jobs)
    write_record(options.out, options.record)
    return min(1, num_failed)


def _retrain_call(training: Training, options: argparse.Namespace) -> tuple[str, list[str]]:
    arguments = ["retrain-one", training.digest, *_data_dir(options)]
    names = [made.cell.name for made in training.cells]
    return training.digest, [*arguments, "--variants", *options.variants, "--cells", *names]


def _retrain_one(options: argparse.Namespace) -> int:
    cells = [_find_cell(options.out, name) for name in options.cells]
    trainings = plan_trainings(cells, options.variants)
    found = next((each for each in trainings if each.digest == options.digest), None)
    if found is None:
        raise ConfigError(f"There is no training {options.digest}.", hint="Run `retrain` again.")
    retrain(found, options.out, data_dir=options.data_dir, progress=make_progress())
    return 0


def _tables(options: argparse.Namespace) -> int:
    from benchmarks.detection.tables.page import fill_page, make_tables

    tables = make_tables(read_record(options.record or options.out / RESULTS))
    if options.write is None:
        print("\n\n".join(f"{name}\n\n{text}" for name, text in tables.items()))
    else:
        text = fill_page(options.write.read_text("utf-8"), tables)
        options.write.write_text(text, encoding="utf-8")
    return 0


def _figures(options: argparse.Namespace) -> int:
    from benchmarks.detection.figures import write_figures

    for path in write_figures(
        options.out, read_record(options.record or options.out / RESULTS), options.write
    ):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
