"""All tables of the record by name, and a page with places for them.

A place is a pair of comments, ``<!-- table NAME -->`` and ``<!-- end of NAME -->``; what stands
between them is made anew, and nothing else of the page is touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from benchmarks.detection.cells import CLEAN
from benchmarks.detection.tables import (
    ablations,
    beside_papers,
    by_attack,
    clean,
    goals,
    outcomes,
    rates,
    scope,
)
from benchmarks.detection.tables.markdown import Row
from bye_audit.errors import ConfigError
from bye_audit.pipeline import EMBEDDED_MODEL

_PLACE = re.compile(r"<!-- table ([\w-]+) -->\n.*?<!-- end of \1 -->", re.DOTALL)


def make_tables(rows: Sequence[Row]) -> dict[str, str]:
    """Give every table as Markdown, by the name of its place."""
    named = [{**row, "data": _data_name(row)} for row in rows]
    poisoned = [row for row in named if row["attack"] != CLEAN]
    unpoisoned = [row for row in named if row["attack"] == CLEAN]
    return {
        "scope": scope.scope_table(named),
        "goals": goals.goals_table(poisoned, unpoisoned),
        "f1": by_attack.f1_table(poisoned),
        "not-learnt": by_attack.not_learnt_table(poisoned),
        "precision-recall": by_attack.precision_recall_table(poisoned),
        "rates": rates.rate_table(poisoned),
        "paper-1": beside_papers.outcome_table(poisoned),
        "paper-2": beside_papers.detection_table(poisoned),
        "paper-3-6": beside_papers.trigger_table(poisoned),
        "paper-5": ablations.threshold_table(poisoned),
        "paper-7": ablations.clustering_table(poisoned),
        "paper-figure-4": ablations.component_table(poisoned),
        "tcap-f1": beside_papers.tcap_table(poisoned),
        "tcap-blended": beside_papers.blended_outcome_table(poisoned),
        "outcomes": f"{outcomes.training_sentence(poisoned)}\n\n{outcomes.outcome_table(poisoned)}",
        "clean": clean.clean_table([row for row in unpoisoned if row["run"] is None]),
        "clean-halves": clean.clean_table([row for row in unpoisoned if row["run"] is not None]),
    }


def _data_name(row: Row) -> str:
    """Name the dataset, and the model where it is another than the embedded one."""
    model = row["model"]
    return str(row["data"]) if model == EMBEDDED_MODEL else f"{row['data']}, {model}"


def fill_page(page: str, tables: Mapping[str, str]) -> str:
    """Put each table in its place.

    Raises
    ------
    ConfigError
        If a table has no place on the page, or a place no table.
    """
    places = _PLACE.findall(page)
    if sorted(places) != sorted(tables):
        differing = sorted(set(places) ^ set(tables)) or places
        raise ConfigError(
            f"The page's places and the tables differ: {', '.join(differing)}.",
            hint="A place begins with <!-- table NAME --> and ends with <!-- end of NAME -->.",
        )
    return _PLACE.sub(
        lambda found: (
            f"<!-- table {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- end of {found[1]} -->"
        ),
        page,
    )
