"""Plant known poison in copies of the user's own data and measure who sees it.

For each attack and each rate: a copy of the audit with the attack planted, a provisional model
trained on it, its scores, and what every detector says of them beside the truth. The audit itself
is only read. The truth lies beside the copy, never in it, and no stage reads it.
"""

from bye_audit.canary.blindness import BlindRate, Bound, Sight
from bye_audit.canary.preparing import CanaryPlan, known_model
from bye_audit.canary.results import CanaryReport
from bye_audit.canary.stage import run_canary

__all__ = [
    "BlindRate",
    "Bound",
    "CanaryPlan",
    "CanaryReport",
    "Sight",
    "known_model",
    "run_canary",
]
