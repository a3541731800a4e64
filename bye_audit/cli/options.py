"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_args

import click

from bye_audit.config import (
    DEFAULT_DETECTOR,
    PURIFIER_NAMES,
    QUANTIZATIONS,
    ConfirmConfig,
    DetectConfig,
    EntropyName,
    FinetuneConfig,
    LayerRuleName,
    PurifyConfig,
    ScoreConfig,
    TcapConfig,
)

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

FINDING_STATUS = 10

audit_argument = click.argument("audit", metavar="AUDIT")
sources_argument = click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path()
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
trust_option = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code that comes with the model. Only for models whose code you have read.",
)
fail_option = click.option(
    "--fail-on-suspicious",
    is_flag=True,
    help=f"End with status {FINDING_STATUS} when poison is suspected or the case is inconclusive.",
)
detector_option = click.option(
    "--detector",
    default=DEFAULT_DETECTOR,
    show_default=True,
    help="consensus: what confirm found out, and what the others agree on. bye: collapse of "
    "attention, the paper's. tcap: heads whose attention sets the same minority apart. "
    "plausibility: answers that only the fine-tuned model finds likely. zip: answers that purify "
    "took from the model. For comparison, none and "
    "random-drop look at nothing.",
)


def model_option(*, required: bool) -> Decorator[Any]:
    """Build ``--model``."""
    text = "Folder or hub id of the base model, or 'mini' for the embedded one."
    if not required:
        text += " Default: that of the last finetune."
    return click.option("--model", required=required, metavar="MODEL", help=text)


adapter_option = click.option(
    "--adapter",
    type=click.Path(file_okay=False),
    help="Folder of the provisional adapter. Default: that of the last finetune.",
)


def source_options(command: Command) -> Command:
    """Add how sources are read."""
    return _apply(
        command,
        click.option(
            "--format",
            "source_format",
            default="auto",
            show_default=True,
            metavar="FORMAT",
            help="Whose records they are: llava, sharegpt, alpaca, llama-factory, ms-swift, "
            "qwen-vl, internvl, openai, bedrock, trl, columns or any; or how they lie: json, "
            "jsonl, parquet, arrow, csv, webdataset.",
        ),
        click.option(
            "--image-root",
            type=click.Path(file_okay=False),
            help="Folder image paths are relative to. Default: the source's own folder.",
        ),
        click.option(
            "--split", default="train", show_default=True, help="Name stored with each sample."
        ),
    )


def finetune_options(command: Command) -> Command:
    """Add the settings of the provisional fine-tuning."""
    seed = _number("--seed", FinetuneConfig().seed, "Seed of order and initial LoRA weights.")
    return _apply(command, *_finetune_settings(), seed)


def finetune_overrides(command: Command) -> Command:
    """Add the same settings without defaults: what is not given stays as it was."""
    return _apply(command, *_finetune_settings(is_override=True))


def _finetune_settings(*, is_override: bool = False) -> list[Decorator[Any]]:
    default = FinetuneConfig()

    def setting(*names: str, default: Any, **more: Any) -> Decorator[Any]:
        if is_override:
            return click.option(*names, default=None, **more)
        return click.option(*names, default=default, show_default=True, **more)

    def number(name: str, value: float, text: str) -> Decorator[Any]:
        return setting(name, default=value, type=type(value), help=text)

    return [
        number("--epochs", default.epochs, "Passes over the data."),
        number("--learning-rate", default.learning_rate, "Peak rate of AdamW."),
        number("--batch-size", default.batch_size, "Samples an optimiser step."),
        click.option(
            "--micro-batch-size",
            type=int,
            help="Samples a forward pass; the rest is accumulated. Default: the whole batch.",
        ),
        setting(
            "--quantize",
            "quantization",
            type=click.Choice(QUANTIZATIONS),
            default=default.quantization,
            help="Load the language decoder in fewer bits, for scoring as well. Needs the extra "
            "bye-audit[quantized].",
        ),
        click.option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            default=None,
            help="Compute activations twice instead of keeping them: less memory, more time. "
            "Default: on a GPU only.",
        ),
        number("--lora-rank", default.lora_rank, "Rank of the LoRA matrices."),
        number("--lora-alpha", default.lora_alpha, "Scale of the LoRA update."),
        setting(
            "--train-projector/--freeze-projector",
            default=default.train_projector,
            help="Train the projector between vision tower and decoder as well.",
        ),
        number("--max-length", default.max_length, "Longest conversation in tokens."),
    ]


def score_options(command: Command) -> Command:
    """Add the settings of scoring."""
    default = ScoreConfig()
    return _apply(
        command,
        click.option(
            "--layers",
            callback=_layer_list,
            metavar="N,N,...",
            help="Decoder layers to read. With --no-plausibility the deeper ones are not run.",
        ),
        click.option(
            "--plausibility/--no-plausibility",
            default=default.plausibility,
            show_default=True,
            help="Also store how likely each answer is with and without the adapter.",
        ),
        click.option(
            "--turn",
            "turns",
            type=click.Choice(["first", "all"]),
            default=default.turns,
            show_default=True,
            help="Score the first answer of a conversation, or each.",
        ),
        click.option(
            "--check",
            is_flag=True,
            help="Hold 4 samples against eager attention first; stop if they differ.",
        ),
        click.option("--device", help="cpu, cuda, cuda:1 ..., or auto: spread over all there are."),
        click.option("--batch-tokens", type=int, help="Most tokens a forward pass."),
        click.option(
            "--reuse-prefix/--no-reuse-prefix",
            default=default.reuse_prefix,
            show_default=True,
            help="Compute an image once for all its questions, where that is exact.",
        ),
        click.option(
            "--workers",
            "num_workers",
            type=int,
            help="Processes that read ahead of the model. Default: as the cores allow.",
        ),
        _number("--commit-seconds", default.commit_seconds, "Least time between two commits."),
        click.option("--retry-errors", is_flag=True, help="Score samples again that failed."),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default=default.engine,
            show_default=True,
            help="One model here, or one in each worker of Ray (needs bye-audit[ray]).",
        ),
        click.option(
            "--ray-workers",
            type=int,
            help="Models at work at once. Default: one for each GPU, else for each core.",
        ),
        click.option(
            "--gpus-per-worker",
            type=float,
            help="GPUs for each worker, shared if below 1. Default: 1, but 0 where there is none.",
        ),
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="Running Ray cluster, HOST:PORT or auto. Default: a Ray of its own, here.",
        ),
    )


def _layer_list(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError as error:
        raise click.BadParameter("layers are numbers with commas between, as in 3,5") from error


def layer_options(command: Command) -> Command:
    """Add the settings of what makes a layer sensitive."""
    default = DetectConfig()
    return _apply(
        command,
        _number(
            "--bsi-threshold",
            default.bsi_threshold,
            "Least Bimodal Separation Index of a sensitive layer.",
        ),
        _choice(
            "--layer-rule",
            get_args(LayerRuleName),
            default.layer_rule,
            "What makes a layer sensitive: the paper's Eq. 7, or the rule of its released code, "
            "which asks for means further apart than twice the sum of the deviations.",
        ),
        _choice(
            "--entropy",
            get_args(EntropyName),
            default.entropy,
            "Of attention renormalised over the image tokens, or Eq. 5 taken literally.",
        ),
        click.option(
            "--guards/--no-guards",
            default=default.guards,
            show_default=True,
            help="Refuse what clean data may cause; without, the paper's rule as it is published.",
        ),
        _number("--min-samples", default.min_samples, "Fewest scored samples that are evaluated."),
    )


def detect_options(command: Command) -> Command:
    """Add the settings of the detection."""
    default = DetectConfig()
    return _apply(
        layer_options(command),
        _choice(
            "--layers",
            ("sensitive", "all"),
            default.layers,
            "Layers that bye averages; all is the paper's ablation without BSI.",
        ),
        _choice(
            "--clustering",
            ("gmm", "kmeans", "threshold"),
            default.clustering,
            "How bye splits the samples: Gaussian mixture, or a baseline of the paper's Table 7.",
        ),
        click.option(
            "--entropy-threshold",
            callback=_entropy_threshold,
            default=f"{default.entropy_threshold}",
            show_default=True,
            metavar="NATS|SHARE%",
            help="For --clustering threshold: entropy below which a sample is suspected, in nats "
            "or as a share of the largest possible (4.5 nats are 70.8% of log 576).",
        ),
        click.option(
            "--agree-with",
            "tcap",
            type=click.Choice(["nobody", "plausibility"]),
            callback=_second_witness,
            default="nobody",
            show_default=True,
            help="For tcap: who must suspect the same samples. Its heads are chosen by it then.",
        ),
        _number(
            "--max-removed-share",
            default.max_removed_share,
            "Largest share of the scored samples that may be removed; above it nothing is.",
        ),
        _number("--resamples", default.resamples, "Bootstrap samples that show how stable it is."),
        _number("--drop-share", default.drop_share, "Share that the baseline random-drop removes."),
    )


def confirm_options(command: Command) -> Command:
    """Add how hard suspicions are put to the test."""
    default = ConfirmConfig()
    return _apply(
        command,
        _number(
            "--representatives",
            default.representatives,
            "Suspects of a group whose triggers are looked for.",
        ),
        _number("--recipients", default.recipients, "Samples that a trigger is tried on."),
        _number(
            "--min-chance",
            default.min_chance,
            "Chance of carrying its answer over that a trigger has at the least.",
        ),
        _number("--confidence", default.confidence, "Chance that this bound holds."),
        _number("--max-groups", default.max_groups, "Groups of suspects that are looked into."),
        _number("--min-group", default.min_group, "Fewest suspects that are a group."),
        _number("--probes", default.probes, "Samples questioned where no detector suspects any."),
        _number(
            "--max-share",
            default.max_share,
            "Most questions with nothing confirmed, as a share of the passes of scoring.",
        ),
        click.option(
            "--search/--no-search",
            default=default.search,
            show_default=True,
            help="With a confirmed trigger, also ask samples whose image looks as if it held it.",
        ),
    )


def purify_options(command: Command) -> Command:
    """Add how images are purified."""
    default = PurifyConfig()
    return _apply(
        command,
        _choice(
            "--purifier",
            PURIFIER_NAMES,
            default.purifier,
            "Average over blocks, which needs no model, or fill in what averaging took with a "
            "diffusion model (needs bye-audit[zip]).",
        ),
        click.option(
            "--purifier-model",
            type=click.Path(file_okay=False),
            help="Folder of the diffusion model, as diffusers saves it: unconditional, RGB.",
        ),
        click.option("--device", help="cpu, cuda, cuda:1 ..."),
        click.option("--batch-tokens", type=int, help="Most tokens a forward pass."),
        _number("--commit-seconds", default.commit_seconds, "Least time between two commits."),
    )


def _entropy_threshold(
    _context: click.Context, _parameter: click.Parameter, value: str
) -> float | str:
    try:
        return float(value)
    except ValueError:
        # In percent, or a fault that the settings will name.
        return value


def _second_witness(_context: click.Context, _parameter: click.Parameter, value: str) -> TcapConfig:
    return TcapConfig(agree_with="plausibility" if value == "plausibility" else None)


def take_config(config_type: type[Any], options: dict[str, Any]) -> Any:
    """Move the options that are settings of ``config_type`` out of ``options`` into one."""
    names = [item.name for item in fields(config_type) if item.name in options]
    return config_type(**{name: options.pop(name) for name in names})


def _number(name: str, default: float, text: str) -> Decorator[Any]:
    return click.option(name, type=type(default), default=default, show_default=True, help=text)


def _choice(name: str, values: tuple[str, ...], default: str, text: str) -> Decorator[Any]:
    return click.option(
        name, type=click.Choice(values), default=default, show_default=True, help=text
    )


def _apply(command: Command, *decorators: Decorator[Any]) -> Command:
    # Reversed: decorators are applied from the inside out, help lists them from the outside in.
    for decorate in reversed(decorators):
        command = decorate(command)
    return command
