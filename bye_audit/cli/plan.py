"""A plan as a small table that says of every figure whether it was measured or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bye_audit.cli.text import count, format_seconds

if TYPE_CHECKING:
    from bye_audit.planning import MemoryPlan, Plan

_PARTS = {
    "base_weights": "base weights",
    "trained_weights": "trained weights",
    "gradients": "gradients",
    "optimizer_states": "optimiser states",
    "kept_activations": "kept activations",
    "working_memory": "working memory",
    "total": "at most in all",
}


def describe_plan(plan: Plan) -> list[str]:
    """Say what a run will take."""
    kept = "activations computed twice" if plan.is_checkpointing else "activations kept"
    lines = [
        f"{count(plan.num_samples, 'sample')} on {plan.device} in {plan.precision}, "
        f"{count(plan.num_steps, 'step')}, micro-batches of {plan.micro_batch_size}, {kept}.",
        f"{plan.num_base_weights / 1e6:,.1f} M base weights, "
        f"{plan.num_trained_weights / 1e6:,.1f} M trained: {plan.num_adapted_layers} adapted "
        "layers and the projector if it is trained.",
        "",
        *_memory_table(plan),
        "",
        *_costs(plan),
    ]
    return lines + [f"Warning: {warning}" for warning in plan.warnings]


def _memory_table(plan: Plan) -> list[str]:
    columns = [column for column in (plan.at_longest_seen, plan.at_max_length) if column]
    titles = [f"{column.length:,} positions" for column in columns]
    lines = [f"{'Memory, computed':<22}" + "".join(f"{title:>18}" for title in titles)]
    for name, label in _PARTS.items():
        lines.append(f"  fine-tuning {label:<20}"[:34].ljust(34) + _cells(columns, name))
    lines.append(f"  {'scoring in all':<32}" + _cells(columns, "total", stage="score"))
    return lines


def _cells(columns: list[MemoryPlan], name: str, stage: str = "finetune") -> str:
    return "".join(f"{format_bytes(getattr(getattr(c, stage), name)):>18}" for c in columns)


def _costs(plan: Plan) -> list[str]:
    lines = []
    if plan.trial is None or plan.finetune_seconds is None or plan.score_seconds is None:
        lines.append(f"Times were not measured: {plan.not_measured}.")
    else:
        trial = plan.trial
        lines += [
            f"Fine-tuning takes {format_seconds(plan.finetune_seconds)}, measured: "
            f"{trial.finetune_seconds_per_sample:.3g} s a sample in micro-batches of "
            f"{trial.micro_batch_size}.",
            f"Scoring takes {format_seconds(plan.score_seconds)}, measured: "
            f"{trial.score_seconds_per_sample:.3g} s a sample.",
            f"Lengths are those of {count(trial.num_samples, 'sample')} spread over the audit.",
        ]
        if trial.peak_device_bytes is not None:
            lines.append(f"A step took {format_bytes(trial.peak_device_bytes)}, measured.")
    lines.append(
        f"Disk, computed: {format_bytes(plan.finetune_disk)} for adapter and checkpoints, at most "
        f"{format_bytes(plan.score_disk)} for scores; {format_bytes(plan.free_disk)} are free."
    )
    return lines


def format_bytes(number: float) -> str:
    """Write a size as ``512 B``, ``3.1 MB`` or ``14.1 GB``, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
