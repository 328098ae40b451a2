"""Published numbers beside the estimates of them: the table of docs/estimate.md.

Write it anew with ``python -m tests.estimate.reference``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from multitask.estimate import (
    Machines,
    Spread,
    Training,
    Workload,
    checkpoint_cadence,
    checkpoint_gb,
    estimate_memory,
    full,
    lora,
    step_time,
)
from multitask.estimate.assumptions import GB, PADDING_FACTOR, PCIE_GB_S
from multitask.models import ModelShape, families, shape_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "estimate.md"
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


class Reference(NamedTuple):
    """A published number and our estimate of it."""

    what: str
    unit: str
    published: float
    estimated: float
    source: str

    @property
    def error(self) -> float:
        """Of the estimate, relative to what was published."""
        return self.estimated / self.published - 1


def llama(hidden: int, layers: int, heads: int, inner: int, vocabulary: int = 32_000) -> ModelShape:
    """A Llama shape (also the first Qwen's, but for a bias)."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": inner, "vocab_size": vocabulary}
    return shape_of({"model_type": "llama", **sizes})


def _listed(family: str, model: str) -> ModelShape:
    entry = families()[family].checkpoint(model)
    assert entry is not None
    return shape_of(families()[family].config_of(entry))


LLAMA_7B, LLAMA_65B = llama(4096, 32, 32, 11008), llama(8192, 80, 64, 22016)
LLAMA_8B = _listed("llama-3", "meta-llama/Llama-3.1-8B")
QWEN = {"1.8B": llama(2048, 24, 16, 5504, 151_936), "7B": llama(4096, 32, 32, 11008, 151_936)}
FLAN_T5_XXL = shape_of(
    {
        "model_type": "t5",
        "vocab_size": 32_128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10_240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
)
ONE_GPU = Spread()
_HF, _ZERO = "transformers docs, model memory anatomy", "Rajbhandari et al. 2020, figure 1"
_LIT, _PHIL = "Lit-LLaMA on Alpaca", "philschmid.de, FLAN-T5-XXL with LoRA"
_YOUNG = "Young 1974, Daly 2006"


def references() -> list[Reference]:
    """All rows that must agree within 15 %."""
    return [*_state(), *_flan_t5(), *_lit_llama(), *_batches(), *_checkpoints()]


def _per_parameter(training: Training, sharding: str = "none") -> float:
    return training.state_bytes(sharding).total


def _state() -> Iterator[Reference]:
    mixed = full(LLAMA_7B, precision="mixed")
    eight_bit = full(LLAMA_7B, optimizer="adamw_bnb_8bit", precision="bf16").state_bytes("none")
    yield Reference(
        "full fine-tune, AdamW, mixed precision", "B/param", 18, _per_parameter(mixed), _HF
    )
    kept = LLAMA_7B.parameters * (eight_bit.weights + eight_bit.optimizer) / GB
    yield Reference("7B, bf16, 8-bit AdamW: weights and moments", "GB", 28, kept, _HF)
    total = LLAMA_65B.parameters * _per_parameter(full(LLAMA_65B), "zero3") / GB
    yield Reference("65B, full fine-tune", "GB", 1000, total, "facts of this project")
    # What the paper's own figure shows; its model has 7.5 billion parameters.
    training, work = full(LLAMA_7B, precision="master"), Workload(rows=1, mean_tokens=1)
    larger = 7.5e9 / LLAMA_7B.parameters
    for name, spread, published in (
        ("not sharded", Spread("zero1", 1), 120),
        ("ZeRO 1", Spread("zero1", 64), 31.4),
        ("ZeRO 2", Spread("zero2", 64), 16.6),
        ("ZeRO 3", Spread("zero3", 64), 1.88),
    ):
        state = estimate_memory(LLAMA_7B, training, spread, work).state * larger
        yield Reference(f"7.5B on 64 GPUs, {name}: state", "GB", published, state, _ZERO)


def _flan_t5() -> Iterator[Reference]:
    model = FLAN_T5_XXL
    training = lora(model, 16, ("q", "v"), base_bits=8)
    share = 100 * training.trainable / (model.parameters + training.trainable)
    yield Reference("FLAN-T5-XXL, LoRA r=16 on q, v: trained", "%", 0.16, share, _PHIL)
    # 14,732 dialogues, 5 epochs, batch 8, 255 tokens in and 90 out; each stack sees its own part,
    # so the whole model sees half of them.
    work = Workload(rows=14_732, mean_tokens=172.5, sequence_len=172, micro_batch=8)
    a10g = Machines(memory_gb=24, bf16_tflops=70)
    hours = 14_732 * 5 / 8 * step_time(model, training, ONE_GPU, a10g, work).total / 3600
    yield Reference("the same on one A10G, int8: time", "h", 10, hours, _PHIL + " (calibrated)")
    yield Reference("... at $1.212 an hour", "$", 13.22, hours * 1.212, _PHIL)
    yield Reference(
        "... in the time of the row above on 8 x A100-40GB at $32.77",
        "$",
        322,
        hours * 32.77,
        _PHIL,
    )


def _lit_llama() -> Iterator[Reference]:
    # Its scripts: micro batch 4, bf16, no checkpointing; LoRA r=8 on the attention's q and v. Rows
    # are at most 256 tokens and, padded to the longest of four, some 170. The report has 62,400
    # iterations. LLaMA-Adapter learns 1.2M parameters of prefixes: no matrices beside the layers.
    bf16: dict[str, Any] = {"precision": "bf16"}
    prefix = Training(1_229_760, frozen_base=True, **bf16)
    side = lora(LLAMA_7B, 8, ("q_proj", "v_proj"), **bf16)
    whole, four = full(LLAMA_7B, **bf16), Spread("fsdp", 4)
    shared: dict[str, Any] = {"rows": 1, "micro_batch": 4, "packing": False, "sequence_len": 256}
    work = Workload(mean_tokens=170 / PADDING_FACTOR, checkpointing=False, **shared)
    # The report names no link; over PCIe the gathers alone explain the time of the full fine-tune.
    pcie = Machines(gpus_per_node=4, memory_gb=40, intra_node_gb_s=PCIE_GB_S)
    for name, training, spread, gb, minutes in (
        ("adapter", prefix, ONE_GPU, 22, 162),
        ("LoRA", side, ONE_GPU, 21, 192),
        ("full, 4 A100 over PCIe", whole, four, 22, 1956),
    ):
        memory = estimate_memory(LLAMA_7B, training, spread, work).total
        yield Reference(f"LLaMA-7B, {name}: memory of a GPU", "GB", gb, memory, _LIT)
        seconds = step_time(LLAMA_7B, training, spread, pcie, work).total
        yield Reference(f"LLaMA-7B, {name}: time", "min", minutes, 62_400 * seconds / 60, _LIT)


def _batches() -> Iterator[Reference]:
    for world, micro, accumulation, total in ((8, 2, 8, 128), (3, 1, 32, 96)):
        work = Workload(rows=1, mean_tokens=1, micro_batch=micro, accumulation=accumulation)
        what = f"batch of {world} GPUs x {micro} x {accumulation}"
        yield Reference(what, "rows", total, work.global_batch(world), "arithmetic")


def _checkpoints() -> Iterator[Reference]:
    for stall, minutes, lost in ((15, 27, 1.9), (60, 54, 3.7)):
        found = checkpoint_cadence(1.0, stall, 24, longest_minutes=120)
        yield Reference(
            f"interval, {stall} s a save, MTBF 24 h", "min", minutes, found.minutes, _YOUNG
        )
        loss = found.expected_loss_percent
        yield Reference("... time lost", "%", lost, loss, _YOUNG)
    facts = "facts of this project"
    for sharding, size in (("fsdp", 96), ("zero3", 112)):
        found_gb = checkpoint_gb(full(LLAMA_8B), Spread(sharding, 12))
        yield Reference(f"8B, full state, {sharding}", "GB", size, found_gb, facts)


# QwenLM/Qwen, README, "Profiling of Memory and Speed": one A100-SXM4-80GB, PyTorch 2.0, flash
# attention 2, batch 1, accumulation 8, LoRA r=64 on all linear layers, gradient checkpointing. GB
# and seconds per step at 256 to 8,192 tokens. Q-LoRA is GPTQ in 4 bits there, NF4 here.
QWEN_MEASURED = {
    ("1.8B", 16): ((6.7, 7.4, 8.4, 11.0, 16.2, 21.8), (1.0, 1.0, 1.1, 1.7, 3.3, 6.8)),
    ("1.8B", 4): ((5.8, 6.0, 6.6, 7.8, 10.2, 15.8), (1.4, 1.4, 1.4, 2.0, 3.4, 6.5)),
    ("7B", 16): ((20.1, 20.4, 21.5, 23.8, 29.7, 36.6), (1.2, 1.5, 2.8, 5.2, 10.1, 21.3)),
    ("7B", 4): ((11.5, 11.5, 12.3, 13.9, 16.9, 23.5), (3.0, 3.0, 3.5, 7.0, 11.6, 22.3)),
}


class Measured(NamedTuple):
    """A measured run and our estimate of it."""

    size: str
    bits: int
    length: int
    gb: float
    gb_estimated: float
    seconds: float
    seconds_estimated: float


def qwen() -> list[Measured]:
    """Qwen's measurements beside the estimates."""
    rows = []
    for (size, bits), (memory, seconds) in QWEN_MEASURED.items():
        training = lora(QWEN[size], 64, base_bits=bits)
        for length, gb, time in zip(LENGTHS, memory, seconds, strict=True):
            work = Workload(rows=1, mean_tokens=length, sequence_len=length, accumulation=8)
            found = estimate_memory(QWEN[size], training, ONE_GPU, work).total
            step = step_time(QWEN[size], training, ONE_GPU, Machines(), work).total
            rows.append(Measured(size, bits, length, gb, found, time, step))
    return rows


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables() -> str:
    """Both tables in Markdown, as they stand in the document."""
    heads = ("number", "published", "estimated", "error", "source")
    lines = [_line(heads), "| --- | ---: | ---: | ---: | --- |"]
    for r in references():
        numbers = (f"{r.published:g} {r.unit}", f"{r.estimated:.4g} {r.unit}", f"{r.error:+.0%}")
        lines.append(_line((r.what, *numbers, r.source)))
    sides = ("measured", "estimated", "error")
    heads = ("Qwen", "base", "tokens", *(f"GB {s}" for s in sides), *(f"s/step {s}" for s in sides))
    lines += ["", _line(heads), "| --- | --- |" + " ---: |" * 7]
    lines += [
        f"| {m.size} | {m.bits} bit | {m.length:,} | {m.gb:g} | {m.gb_estimated:.1f} "
        f"| {m.gb_estimated / m.gb - 1:+.0%} | {m.seconds:g} | {m.seconds_estimated:.1f} "
        f"| {m.seconds_estimated / m.seconds - 1:+.0%} |"
        for m in qwen()
    ]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"

if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + tables() + END + rest.split(END)[1], encoding="utf-8")
    sys.stdout.write(tables())
