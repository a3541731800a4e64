"""When a training run is saved, stopped, and taken up again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bye_audit.core.loss_curve import find_loss_rise
from bye_audit.processes import largest_of_all, wait_for_all
from bye_audit.progress import Task

CHECKPOINT_DIR = "checkpoints"
_COMPLETE_MARK = "complete"


class TrainingReporter(TrainerCallback):
    """Advances the progress bar, writes timed checkpoints, stops when asked to."""

    def __init__(
        self, task: Task, checkpoint_seconds: float, is_stopping: Callable[[], bool]
    ) -> None:
        self._task = task
        self._checkpoint_seconds = checkpoint_seconds
        self._is_stopping = is_stopping
        self._last_save = time.monotonic()
        self.was_stopped = False
        """Whether training ended before its last step because it was asked to."""
        self._note = ""
        self._losses: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the steps of an earlier, interrupted run."""
        del args, control
        if state.global_step:
            self._task.advance(state.global_step, "resumed")
        self._losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Remember the loss for the next step's note, and warn while there is time to stop."""
        del args, state, control
        if logs and "loss" in logs:
            self._losses.append(float(logs["loss"]))
            rise = find_loss_rise(self._losses)
            is_failing = rise is not None and rise.is_lasting
            self._note = f"loss {self._losses[-1]:.3f}" + (", far above its start" * is_failing)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance, and ask for a checkpoint where one is due."""
        self._task.advance(1, self._note)
        is_done = state.global_step >= state.max_steps
        is_due = time.monotonic() - self._last_save >= self._checkpoint_seconds
        # Clocks and signals differ between processes: all must stop and save at the same step.
        wishes = largest_of_all(torch.tensor([int(self._is_stopping()), int(is_due)]), args.device)
        is_stopping, is_due = (bool(wish) for wish in wishes.tolist())
        if is_stopping:
            control.should_training_stop = True
            self.was_stopped = not is_done
        if (is_due or is_stopping) and not is_done:
            control.should_save = True
            self._last_save = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark a checkpoint as written to its end."""
        del control
        # A process killed while it writes leaves a folder that looks like a checkpoint; each
        # process writes its own random state into it.
        wait_for_all()
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE_MARK).touch()


def last_complete_checkpoint(output_dir: Path) -> Path | None:
    """Newest checkpoint below an adapter folder that was written to its end."""
    found = [
        path
        for path in (output_dir / CHECKPOINT_DIR).glob("checkpoint-*")
        if (path / _COMPLETE_MARK).is_file()
    ]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@contextmanager
def stopping_gracefully() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the running step and save; the second one ends at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping.is_set
        return
    previous = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopping.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
