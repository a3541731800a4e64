"""The page of all attacks: ``python -m benchmarks.attacks_page --write docs/attacks.md``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bye_audit.poison.attacks import ATTACKS

_HEAD = """# Attacks to measure detection with

Made from the registry by `python -m benchmarks.attacks_page --write docs/attacks.md`.

```python
from bye_audit.poison.attacks import ATTACKS

attack = ATTACKS["dual-key"].build(poison_rate=0.01)
planting = attack.plan(answers, seed=0)  # all clean answers, in order
image, question, answer = planting.plant(row, image, question, answer)
truth, decoys = planting.is_poisoned, planting.is_decoy  # one bool a row
image, question = planting.trigger(row, image, question)  # a test input
rate = planting.success_rate(given_answers, clean_answers)  # over all test rows
```

* **Rate**: exactly `round(poison_rate * samples)` samples are poisoned, or `plan` says how many
  could be. Decoys come on top and are no poison.
* **Size**: `relative_size` is the side of the patch as a fraction of the image's shorter side. The
  paper's 1/16 is the default; larger or smaller patches keep their proportion to it. Attacks of the
  kinds global, sample-specific and text have no patch and ignore it.
* **Target**: "Backdoor Attack!" where nothing else is said; `build(target=...)` takes any other.
* **Seed**: what happens to a row depends on seed and row number alone, so rows may be planted in
  any order. What must be the same on every image (noise, warp) is part of the attack, not of the
  seed.
* Every trigger says in its docstring where it departs from its paper.

"""


def page() -> str:
    """Give the page: how to use an attack, and a row for each."""
    rows = [
        f"| `{spec.name}` | {spec.kind} | {spec.summary} | {spec.source} |"
        for spec in ATTACKS.values()
    ]
    header = ["| name | kind | what it does | source |", "|---|---|---|---|"]
    return _HEAD + "\n".join([*header, *rows, ""])


def main() -> None:
    """Print the page or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to write instead of printing")
    arguments = parser.parse_args()
    if arguments.write:
        arguments.write.write_text(page(), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
