"""Estimated beside measured peak memory of real training steps on one GPU.

    python benchmarks/memory_peaks.py --model HuggingFaceTB/SmolLM2-1.7B Qwen/Qwen3-0.6B

Builds each model from its shape in configs/models with random weights, so that nothing is
downloaded, and trains a few steps of full fine-tuning and of LoRA, in bf16 with gradient
checkpointing. Needs a CUDA GPU; the last column is the error of the estimate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from multitask.estimate import Spread, Training, Workload, estimate_memory, full, lora
from multitask.models import ModelInfo, model_info

_STEPS = 3


def measure(info: ModelInfo, method: str, micro: int, length: int, device: str) -> float:
    """Peak memory in GB (10^9 bytes) of a few optimizer steps, without the CUDA context."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    assert info.config is not None
    keys = {key: value for key, value in info.config.items() if key != "model_type"}
    config = AutoConfig.for_model(info.model_type, **keys)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        wanted = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, wanted)
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(_STEPS):
        tokens = torch.randint(0, config.vocab_size, (micro, length), device=device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_reserved() / 1e9 if device == "cuda" else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["HuggingFaceTB/SmolLM2-1.7B"])
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--cpu", action="store_true", help="run the steps, measure nothing")
    arguments = parser.parse_args()
    import torch

    if not arguments.cpu and not torch.cuda.is_available():
        sys.exit("this needs a CUDA GPU (--cpu runs the same steps and measures nothing)")
    device = "cpu" if arguments.cpu else "cuda"
    print("| model | method | estimated GB | measured GB | error |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in arguments.model:
        info = model_info(name, Path())
        if info.shape is None:
            sys.exit(f"{name}: {info.notes}")
        trainings: dict[str, Training] = {"lora": lora(info.shape, 16), "full": full(info.shape)}
        for method, training in trainings.items():
            work = Workload(1000, 100.0, sequence_len=arguments.length, micro_batch=arguments.micro)
            memory = estimate_memory(info.shape, training, Spread(), work)
            # The allocator's peak has no CUDA context in it.
            expected = memory.total - 0.8
            found = measure(info, method, arguments.micro, arguments.length, device)
            print(
                f"| {name} | {method} | {expected:.1f} | {found:.1f} "
                f"| {expected / found - 1:+.0%} |",
                flush=True,
            )
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
