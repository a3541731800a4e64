"""Find backdoor poison in image-and-conversation data before a vision-language model ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bye_audit.config import CanaryConfig, DetectConfig, FinetuneConfig, ScoreConfig
from bye_audit.errors import ByeAuditError
from bye_audit.schema import Decision, Verdict

if TYPE_CHECKING:
    from bye_audit.pipeline import Audit

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "ByeAuditError",
    "CanaryConfig",
    "Decision",
    "DetectConfig",
    "FinetuneConfig",
    "ScoreConfig",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # The engines behind Audit take seconds to import: nobody pays who only asks for --help.
    if name == "Audit":
        from bye_audit.pipeline import Audit

        return Audit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
