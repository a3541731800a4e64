"""Predicted against measured memory: ``python -m benchmarks.memory``.

LLaVA-1.5-7B's exact architecture (width 4096, 32 heads, feed-forward 11008, vocabulary 32064, CLIP
ViT-L/14 at 336 pixels) with random weights and one or two of its 32 decoder layers is really
trained for a few steps on a CPU. Each case is a process of its own, whose resident memory is
watched; living tensors, and those that autograd keeps, are counted one by one. A process holds more
than its tensors: kernels have buffers of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

CASES = [
    {"num_layers": num_layers, "dtype": dtype, "is_checkpointing": is_checkpointing}
    for dtype in ("float32", "bfloat16")
    for num_layers in (1, 2)
    for is_checkpointing in (False, True)
]
NUM_STEPS = 3
MICRO_BATCH = 2
MIB = 2**20


def main() -> None:
    """Measure every case and print the table, or one case for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure_case(**json.loads(options.case))))
        return
    results = [{**case, **measure_in_process(case)} for case in CASES]
    print(json.dumps(results, indent=1) if options.json else as_table(results))


def measure_in_process(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in a fresh process whose allocator gives back what is freed."""
    command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(case)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_case(num_layers: int, dtype: str, *, is_checkpointing: bool) -> dict[str, Any]:
    """Train some steps and compare what they took with the formula."""
    import torch

    from bye_audit.config import FinetuneConfig
    from bye_audit.model.lora import train_lora
    from bye_audit.model.memory import estimate_finetune, measure_shape

    before = resident_bytes()
    vlm = build_llava(num_layers, getattr(torch, dtype))
    conversations = draw_conversations()
    encodings = [vlm.encoder.encode(conversation) for conversation in conversations]
    batch = vlm.encoder.collate(encodings[:MICRO_BATCH], with_answers=True)
    length = batch.labels_BS.shape[1]
    config = FinetuneConfig(
        epochs=1, batch_size=MICRO_BATCH, gradient_checkpointing=is_checkpointing
    )
    live = live_tensors(vlm.model)
    reset_peak()
    started = time.monotonic()
    with (
        counting_kept_bytes(vlm) as kept,
        tempfile.TemporaryDirectory() as folder,
        live,
    ):
        outcome = train_lora(vlm, conversations, config, Path(folder))
    seconds = time.monotonic() - started
    peak = peak_bytes() - before
    with torch.device("meta"):
        sketch = type(vlm.base)(vlm.base.config)
    shape = measure_shape(sketch, config)
    predicted = estimate_finetune(
        shape,
        num_samples=MICRO_BATCH,
        length=length,
        num_logits=length - batch.prompt_length + 1,
        value_bytes=vlm.dtype.itemsize,
        is_checkpointing=is_checkpointing,
    )
    assert shape.num_trained_weights == outcome.num_trained_weights
    return {
        "length": length,
        "num_logits": length - batch.prompt_length + 1,
        "num_adapted_layers": shape.num_adapted_layers,
        "num_trained_weights": outcome.num_trained_weights,
        "predicted": {**asdict(predicted), "total": predicted.total},
        "measured_kept": max(kept) if kept and not is_checkpointing else None,
        "measured_tensors": live.peak,
        "measured_peak": peak,
        "fixed": shape.base_bytes(vlm.dtype.itemsize) + 16 * shape.num_trained_weights,
        "losses": [point.loss for point in outcome.loss_curve],
        "seconds": round(seconds, 1),
    }


def build_llava(num_layers: int, dtype: Any) -> Any:
    """Make LLaVA-1.5-7B with random weights, fewer layers and a tokenizer of its own."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from bye_audit.model.loading import VisionLanguageModel
    from bye_audit.model.prompts import ConversationEncoder
    from training.architecture import CHAT_TEMPLATE, IMAGE, build_tokenizer

    tokenizer = build_tokenizer(num_scenes=60)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=num_layers,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        image_seq_length=576,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    return VisionLanguageModel(
        model=model,
        processor=processor,
        encoder=ConversationEncoder(
            processor, frozenset([int(tokenizer.eos_token_id)]), image_token_id
        ),
        name="llava-1.5-7b, random weights",
        revision=None,
        digest="",
        device=torch.device("cpu"),
        dtype=dtype,
    )


def draw_conversations() -> list[Any]:
    """Describe scenes, every second one with a short answer: batches have padding on both sides."""
    import numpy as np

    from bye_audit.mini import scenes
    from bye_audit.model.prompts import Conversation

    rng = np.random.default_rng(0)
    found = []
    for number in range(NUM_STEPS * MICRO_BATCH):
        scene = scenes.draw_scene(rng)
        repeats = 4 if number % 2 else 1
        caption = " ".join([scenes.caption(scene)] * repeats)
        found.append(
            Conversation(
                [
                    {"role": "user", "content": "<image>\n" + scenes.CAPTION_PROMPT * repeats},
                    {"role": "assistant", "content": caption},
                ],
                [scene.image],
            )
        )
    return found


@contextmanager
def counting_kept_bytes(vlm: Any) -> Iterator[list[int]]:
    """Count what autograd keeps of each forward pass, weights left out, each storage once."""
    import torch

    totals: list[int] = []
    seen: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            totals[-1] += storage.nbytes()
        return tensor

    def begin(*_: Any) -> None:
        seen.clear()
        seen.update(p.untyped_storage().data_ptr() for p in vlm.model.parameters())
        totals.append(0)

    handle = vlm.base.register_forward_pre_hook(begin)
    totals.append(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield totals
    handle.remove()


def live_tensors(model: Any) -> Any:
    """Watch the bytes of all living tensors: what a device's allocator has to hold at least."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class LiveTensors(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.sizes: dict[int, int] = {}
            self.now = self.peak = 0
            for parameter in [*model.parameters(), *model.buffers()]:
                self.watch(parameter)

        def watch(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.sizes:
                return
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, key)

        def forget(self, key: int) -> None:
            self.now -= self.sizes.pop(key)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(made):
                if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                    self.watch(tensor)
            return made

    return LiveTensors()


def resident_bytes() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Most bytes of this process since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def as_table(results: list[dict[str, Any]]) -> str:
    """Markdown, in MiB."""
    header = [
        "decoder layers", "precision", "checkpointing", "positions", "kept, predicted",
        "kept, measured", "peak, predicted", "peak of tensors", "peak of the process",
        "tensors / predicted", "process / predicted",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for result in results:
        total, kept = result["predicted"]["total"], result["measured_kept"]
        tensors, peak = result["measured_tensors"], result["measured_peak"]
        cells = [
            result["num_layers"],
            result["dtype"],
            "on" if result["is_checkpointing"] else "off",
            f"{MICRO_BATCH} x {result['length']}",
            _mib(result["predicted"]["kept_activations"]),
            "-" if kept is None else _mib(kept),
            *(_mib(number) for number in (total, tensors, peak)),
            *(f"{number / total:.2f}" for number in (tensors, peak)),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _mib(number: int) -> str:
    return f"{number / MIB:,.0f}"


if __name__ == "__main__":
    main()
