"""What reading the attention of a prompt costs: ``python -m benchmarks.scoring``.

On one LLaVA-like model with random weights, for images of 144 to 2,304 tokens:

* ``eager``: the reference way, ``generate(max_new_tokens=1, output_attentions=True)``;
* ``prefill``: a plain forward pass with SDPA that captures nothing and computes the last position's
  logits only, as a user who wants no attention would run it;
* ``probe``: ours, for one question; for several questions about one image, packed behind it.

The three take turns in one process; a ratio is of neighbours in time, its spread over the rounds.
Memory is the peak of a process of its own, above what it held with the model loaded. More than
eight questions one by one are taken to cost as many times what eight cost.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.pipeline import describe_setting
from bye_audit.model.attention import AttentionProbe
from bye_audit.model.packing import Question, SharedPrefix

IMAGE_TOKENS = (144, 576, 1296, 2304)
QUESTIONS = (1, 4, 16, 100)
LEAD, TAIL = 35, 25
"""Text tokens before the image and behind it: LLaVA-1.5's system prompt, a short question."""
MOST_ONE_BY_ONE = 8
VOCABULARY, IMAGE = 32000, 31999
MIB = 1024**2


def main() -> None:
    """Measure every size and print the tables, or one variant's memory for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-tokens", type=int, nargs="+", default=list(IMAGE_TOKENS))
    parser.add_argument("--questions", type=int, nargs="+", default=list(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0, help="default: as many as cores")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        print(measure_memory(options.memory_of, options.image_tokens[0], options.layers))
        return
    results = [measure(size, options) for size in options.image_tokens]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    record = {
        **describe_setting(),
        "device": device,
        "threads": torch.get_num_threads(),
        "layers": options.layers,
        "rounds": options.rounds,
        "results": results,
    }
    print(json.dumps(record, indent=1) if options.json else as_table(record))


def make_model(num_image_tokens: int, num_layers: int) -> Any:
    """Build a LLaVA of 512 features whose image takes this many tokens, on the best device."""
    side = round(num_image_tokens**0.5)
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 14 * side,
            "patch_size": 14,
        },
        image_token_index=IMAGE,
        image_seq_length=num_image_tokens,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    if torch.cuda.is_available():
        model = model.to("cuda", torch.bfloat16)
    return model


def make_prompts(model: Any, number: int) -> list[dict[str, torch.Tensor]]:
    """Draw prompts that differ in nothing but the question."""
    config = model.config
    side = config.vision_config.image_size
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, side, side, generator=generator).to(model.device, model.dtype)
    lead = torch.randint(3, IMAGE, (1, LEAD), generator=generator)
    marks = torch.full((1, config.image_seq_length), IMAGE)
    prompts = []
    for _ in range(number):
        tail = torch.randint(3, IMAGE, (1, TAIL), generator=generator)
        ids = torch.cat([lead, marks, tail], 1).to(model.device)
        mask = torch.ones_like(ids)
        prompts.append({"input_ids": ids, "attention_mask": mask, "pixel_values": image})
    return prompts


@torch.inference_mode()
def run_eager(model: Any, prompts: list[dict[str, torch.Tensor]]) -> None:
    """Ask one by one and keep the whole maps, as the reference does."""
    model.set_attn_implementation("eager")
    for prompt in prompts:
        model.generate(
            **prompt,
            max_new_tokens=1,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )


@torch.inference_mode()
def run_prefill(model: Any, prompts: list[dict[str, torch.Tensor]]) -> None:
    """Ask one by one and capture nothing."""
    model.set_attn_implementation("sdpa")
    for prompt in prompts:
        model(**prompt, logits_to_keep=1)


@cache
def _probe_of(model: Any) -> AttentionProbe:
    """One probe a model: at its first image it checks where images are, once for a whole run."""
    return AttentionProbe(model)


def run_probe(model: Any, prompts: list[dict[str, torch.Tensor]]) -> None:
    """Read the attention: one prompt by itself, several behind their image."""
    model.set_attn_implementation("sdpa")
    with _probe_of(model) as probe:
        if len(prompts) == 1:
            probe.read(prompts[0])
            return
        length = prompts[0]["input_ids"].shape[1] - TAIL
        start = {name: v[:, :length] if v.ndim == 2 else v for name, v in prompts[0].items()}
        prefix = SharedPrefix(probe, start, LEAD, is_deep=False)
        prefix.ask([Question(prompt["input_ids"][0, length:].tolist()) for prompt in prompts])


VARIANTS: dict[str, Callable[[Any, list[dict[str, torch.Tensor]]], None]] = {
    "eager": run_eager,
    "prefill": run_prefill,
    "probe": run_probe,
}


def measure(num_image_tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time the variants in turn at one image size, for every number of questions."""
    model = make_model(num_image_tokens, options.layers)
    results = [
        _measure_questions(model, number, options.rounds if number < 100 else 2)
        for number in options.questions
    ]
    memory = {name: _memory_of(name, num_image_tokens, options.layers) for name in VARIANTS}
    return {"image_tokens": num_image_tokens, "memory_mib": memory, "by_questions": results}


def _measure_questions(model: Any, number: int, rounds: int) -> dict[str, Any]:
    prompts = make_prompts(model, number)
    one_by_one = prompts[:MOST_ONE_BY_ONE]
    scale = number / len(one_by_one)
    # Several questions cost the reference way what one does, each.
    variants = VARIANTS if number == 1 else {n: VARIANTS[n] for n in ("prefill", "probe")}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            chosen = prompts if name == "probe" else one_by_one
            spent = _time(run, model, chosen) * (1 if name == "probe" else scale)
            if turn:
                # The first turn warms up.
                seconds[name].append(spent)
    ratios = {
        f"{name}/probe": [a / b for a, b in zip(seconds[name], seconds["probe"], strict=True)]
        for name in variants
        if name != "probe"
    }
    return {
        "questions": number,
        "seconds": {name: statistics.median(spent) for name, spent in seconds.items()},
        "ratios": {
            name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
            for name, v in ratios.items()
        },
    }


def _time(
    run: Callable[[Any, list[dict[str, torch.Tensor]]], None],
    model: Any,
    prompts: list[dict[str, torch.Tensor]],
) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run(model, prompts)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _memory_of(variant: str, num_image_tokens: int, num_layers: int) -> float:
    command = [sys.executable, "-m", "benchmarks.scoring", "--memory-of", variant]
    command += ["--image-tokens", str(num_image_tokens), "--layers", str(num_layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_memory(variant: str, num_image_tokens: int, num_layers: int) -> float:
    """Peak memory of one question above that of the loaded model, MiB."""
    model = make_model(num_image_tokens, num_layers)
    prompts = make_prompts(model, 1)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        VARIANTS[variant](model, prompts)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    # A tiny pass first: what libraries set up once is no cost of a question.
    VARIANTS["prefill"](model, [{k: v[:, :8] for k, v in prompts[0].items() if v.ndim == 2}])
    gc.collect()
    # Linux: forget the peak that building the model has left.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_kib("VmRSS")
    VARIANTS[variant](model, prompts)
    return (_resident_kib("VmHWM") - before) / 1024


def _resident_kib(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


def as_table(record: dict[str, Any]) -> str:
    """Lay out times, ratios and memory."""
    lines = [
        f"{record['layers']} layers of 512 features, {record['threads']} threads on "
        f"{record['device']}; medians of {record['rounds']} rounds (2 where 100 questions), "
        "ratios with their least and greatest",
        "",
        "| image tokens | questions | eager s | prefill s | probe s | eager / probe "
        "| prefill / probe |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in record["results"]:
        for one in result["by_questions"]:
            seconds, ratios = one["seconds"], one["ratios"]
            cells = [str(result["image_tokens"]), str(one["questions"])]
            cells += [f"{seconds[n]:.3f}" if n in seconds else "" for n in VARIANTS]
            cells += [_ratio(ratios.get(f"{name}/probe")) for name in ("eager", "prefill")]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| image tokens | eager MiB | prefill MiB | probe MiB | probe / eager |"]
    lines.append("|---|---|---|---|---|")
    for result in record["results"]:
        memory = result["memory_mib"]
        share = memory["probe"] / memory["eager"]
        cells = [str(result["image_tokens"]), *(f"{memory[n]:.0f}" for n in VARIANTS)]
        lines.append("| " + " | ".join([*cells, f"{share:.2f}"]) + " |")
    return "\n".join(lines)


def _ratio(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


if __name__ == "__main__":
    main()
