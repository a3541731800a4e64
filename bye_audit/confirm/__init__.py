"""Stage between score and filter: interventions on what the detectors suspect."""

from bye_audit.confirm.stage import ConfirmResult, confirm_samples

__all__ = ["ConfirmResult", "confirm_samples"]
