"""Print how exact the probe is on every architecture.

python -m conformance [--json] [--write docs/conformance.md] [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from conformance.survey import survey
from conformance.table import as_json, as_page, as_text

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; default: all")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, help="page to write the table to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = survey(arguments.names, lambda name: print(name, file=sys.stderr))
    print(as_json(results) if arguments.json else as_text(results))
    if arguments.write:
        arguments.write.write_text(as_page(results), encoding="utf-8")
