"""Tables, source formats, export and SQL: everything that touches storage, nothing of a model."""

from __future__ import annotations

import os

# Lance writes its warnings straight to stderr, between the progress bars; errors reach us anyway.
os.environ.setdefault("LANCE_LOG", "error")
