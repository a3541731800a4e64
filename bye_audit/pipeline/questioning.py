"""The stages that ask the provisional model again, once it has scored."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from bye_audit.config import ConfirmConfig, DetectConfig, PurifyConfig
from bye_audit.pipeline.directory import AuditDirectory


class QuestionedAudit(AuditDirectory):
    """An audit whose provisional model can be asked about what it has scored."""

    def confirm(
        self,
        config: ConfirmConfig | None = None,
        *,
        model: str | Path | None = None,
        adapter_dir: str | Path | None = None,
        detect: DetectConfig | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Ask the provisional model about what the detectors suspect.

        Parameters
        ----------
        config
            How hard to ask.
        model, adapter_dir
            The provisional model that scored; the one of the last ``finetune`` of this audit when
            None.
        detect
            Settings of the detectors that name the suspects; the paper's when None.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Self
            This object, with ``confirmed`` set.
        """
        from bye_audit.confirm import confirm_samples

        provisional = self.provisional(model, adapter_dir)
        self.confirmed = confirm_samples(
            self.tables,
            provisional.model,
            provisional.adapter_dir,
            config,
            detect=detect,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self

    def purify(
        self,
        config: PurifyConfig | None = None,
        *,
        model: str | Path | None = None,
        adapter_dir: str | Path | None = None,
        restart: bool = False,
        trust_remote_code: bool = False,
    ) -> Self:
        """Ask the provisional model about every sample again, with its first image purified.

        Parameters
        ----------
        config
            How to purify.
        model, adapter_dir
            As of ``confirm``.
        restart
            Drop what another purifier has left instead of refusing to mix them.
        trust_remote_code
            Run Python code that comes with the model. Only for models whose code you have read.

        Returns
        -------
        Self
            This object, with ``purified`` set.
        """
        from bye_audit.purify import purify_samples

        provisional = self.provisional(model, adapter_dir)
        self.purified = purify_samples(
            self.tables,
            provisional.model,
            provisional.adapter_dir,
            config,
            restart=restart,
            trust_remote_code=trust_remote_code,
            progress=self.progress,
        )
        return self
