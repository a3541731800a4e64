"""The stages in order, as one object."""

from __future__ import annotations

from bye_audit.pipeline.audit import Audit
from bye_audit.pipeline.provisional import EMBEDDED_MODEL, Provisional, resolve_model

__all__ = ["EMBEDDED_MODEL", "Audit", "Provisional", "resolve_model"]
