"""The commands that ask the provisional model again: ``confirm`` and ``purify``."""

from __future__ import annotations

from typing import Any

import click

from bye_audit.cli import options as shared
from bye_audit.cli import output
from bye_audit.cli.confirm import describe_confirm, describe_findings
from bye_audit.cli.steps import open_audit, show_next
from bye_audit.config import ConfirmConfig, DetectConfig, PurifyConfig


@click.command()
@shared.audit_argument
@shared.model_option(required=False)
@shared.adapter_option
@shared.confirm_options
@shared.detect_options
@shared.trust_option
@shared.json_option
def confirm(
    audit: str,
    model: str | None,
    adapter: str | None,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask the model whether a suspected trigger makes its answer.

    What the detectors suspect is covered, cut out, carried to other images and questions, and the
    provisional model is asked again. With a trigger that is confirmed, every sample that answers
    alike is asked. So are samples whose answers the model contradicts: a trigger may do no more
    than keep right answers away.
    """
    config = shared.take_config(ConfirmConfig, options)
    detect = shared.take_config(DetectConfig, options)
    result = (
        open_audit(audit)
        .confirm(
            config,
            model=model,
            adapter_dir=adapter,
            detect=detect,
            trust_remote_code=trust_remote_code,
        )
        .confirmed
    )
    assert result is not None
    if as_json:
        output.show_json(describe_findings(result))
        return
    output.show(describe_confirm(result))
    show_next("filter", audit, "--out DIR")


@click.command()
@shared.audit_argument
@shared.model_option(required=False)
@shared.adapter_option
@shared.purify_options
@click.option("--restart", is_flag=True, help="Drop what another purifier has left.")
@shared.trust_option
@shared.json_option
def purify(
    audit: str,
    model: str | None,
    adapter: str | None,
    restart: bool,
    trust_remote_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask the model again with every image purified.

    Purifying takes the fine detail from an image, in which a trigger may hide. What that takes from
    each answer is judged by 'filter --detector zip'. It costs about as much as scoring.
    """
    config = shared.take_config(PurifyConfig, options)
    result = (
        open_audit(audit)
        .purify(
            config,
            model=model,
            adapter_dir=adapter,
            restart=restart,
            trust_remote_code=trust_remote_code,
        )
        .purified
    )
    assert result is not None
    if as_json:
        output.show_json(result)
        return
    output.show(output.describe_purify(result))
    show_next("filter", audit, "--detector zip --out DIR")
