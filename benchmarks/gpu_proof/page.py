"""What a proof found, as a page and as JSON, with a verdict for each goal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

LOSSES = 0.02
"""Largest relative difference of two courses of the loss that should be equal (part a)."""
SPEED = 3.0
"""Rows per second, as a multiple of the example's (part b)."""
MEMORY = 0.10
"""Largest relative error of the memory estimate (part c)."""
ARGMAX = 0.995
"""Share of rows whose best label is the same in bfloat16 (part d)."""
RESUMED = 1e-3
"""Largest relative difference of a resumed training's losses (part e)."""
CONTEXT_GB = 0.8
"""The estimate's share for what the allocator does not see: the CUDA context."""

Parts = Mapping[str, Any]


class _Page:
    """Lines of Markdown, and which goals were reached."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.goals: dict[str, bool] = {}

    def add(self, *lines: str) -> None:
        self.lines += lines

    def goal(self, name: str, reached: bool) -> str:
        """Note a goal; its word for a table."""
        self.goals[name] = self.goals.get(name, True) and reached
        return "yes" if reached else "**no**"


def finish(out: Path, parts: Parts, problems: Mapping[str, str], seconds: float) -> bool:
    """Write ``gpu-proof.md`` and ``gpu-proof.json``; whether every goal so far was reached."""
    page = _Page()
    machine = parts["machine"]
    where = machine["gpu"] or "a CPU (in small: nothing here says how fast a GPU is)"
    page.add("# GPU proof", "")
    page.add(f"On {where}; torch {machine['torch']}, Python {machine['python']}. Packed rows were")
    page.add(f"kept apart by `{machine['attention'][0]}`. {seconds / 60:.1f} minutes.", "")
    for name, reason in (machine.get("refused") or {}).items():
        page.add(f"- not usable here: `{name}` ({reason})")
    writers: dict[str, Callable[[_Page, Any], None]] = {
        "methods": _methods,
        "speed": _speed,
        "scoring": _scoring,
        "killed": _killed,
        "doctor": _doctor,
    }
    for name, write in writers.items():
        if parts.get(name) is not None:
            write(page, parts[name])
    if machine["gpu"]:
        _memory(page, parts)
    if problems:
        page.add("", "## Problems", "")
        page.add(*(f"- {name}: {reason}" for name, reason in problems.items()))
    passed = all(page.goals.values()) and not problems
    content = {"goals": page.goals, "problems": dict(problems), "seconds": seconds}
    (out / "gpu-proof.json").write_text(json.dumps(content | dict(parts), indent=1) + "\n")
    (out / "gpu-proof.md").write_text("\n".join(page.lines) + "\n", encoding="utf-8")
    return passed


def _methods(page: _Page, found: Mapping[str, Any]) -> None:
    page.add("", "## a. Packed and with kernels against neither", "")
    page.add("Every optimizer step sees the same rows in both.", "")
    page.add("| method | first loss | last loss | last, plain | largest difference | within 2 % |")
    page.add("| --- | ---: | ---: | ---: | ---: | --- |")
    for method, pair in found.items():
        packed, plain = pair["packed"], pair["plain"]
        if packed is None or plain is None:
            page.goal("losses", False)
            page.add(f"| {method} | | | | did not train | **no** |")
            continue
        a, b = packed["losses"], plain["losses"]
        same = len(a) == len(b)
        gap = max(abs(x - y) / y for x, y in zip(a, b, strict=False))
        good = page.goal("losses", same and gap <= LOSSES)
        page.add(f"| {method} | {a[0]:.3f} | {a[-1]:.3f} | {b[-1]:.3f} | {gap:.2%} | {good} |")


def rows_per_second(found: Mapping[str, Any]) -> float:
    """Rows of the data that a training reads in a second of its later steps."""
    rows = found["rows"] * found["epochs"] / found["steps"]
    later = found["step_seconds"][len(found["step_seconds"]) // 4 :]
    return float(rows / median(later))


def _speed(page: _Page, found: Mapping[str, Any]) -> None:
    page.add("", "## b. Speed", "")
    ours, example = found["ours"], found["example"]
    if ours is None or example is None:
        page.goal("speed", False)
        page.add("Not measured.")
        return
    page.add("LoRA on a model in the shape of Llama 3.2 1B, the same rows, in the same run.", "")
    page.add("| settings | sequence | batch | attention | s/step | rows/s | ratio |")
    page.add("| --- | ---: | --- | --- | ---: | ---: | ---: |")
    base = rows_per_second(example)
    for name, one in (("Axolotl's example (unpacked, padded)", example), ("multitask", ours)):
        rate = rows_per_second(one)
        micro, accumulation = one["batch"]
        page.add(
            f"| {name} | {one['sequence_len']} | {micro} x {accumulation} | {one['attention']} "
            f"| {median(one['step_seconds']):.3f} | {rate:,.0f} | {rate / base:.1f} |"
        )
    reached = page.goal("speed", rows_per_second(ours) >= SPEED * base)
    page.add("", f"At least {SPEED:g} times as fast: {reached}.")


def _memory(page: _Page, parts: Parts) -> None:
    runs = {"full (base)": parts.get("base"), "lora, 1B": (parts.get("speed") or {}).get("ours")}
    for method, pair in (parts.get("methods") or {}).items():
        runs |= {f"{method}, {kind}": pair[kind] for kind in ("packed", "plain")}
    page.add("", "## c. Memory", "")
    page.add("Peak of the allocator (reserved), without the CUDA context, beside the estimate.", "")
    page.add("| run | estimated GB | measured GB | allocated GB | error | within 10 % |")
    page.add("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, one in runs.items():
        if one is None or one.get("estimate") is None:
            continue
        expected, measured = one["estimate"]["total"] - CONTEXT_GB, one["peak_gb"]
        error = expected / measured - 1
        # Without kernels and packing a run is not what the estimate was made for.
        good = "" if name.endswith("plain") else page.goal("memory", abs(error) <= MEMORY)
        page.add(
            f"| {name} | {expected:.2f} | {measured:.2f} | {one['allocated_gb']:.2f} "
            f"| {error:+.0%} | {good} |"
        )


def _scoring(page: _Page, found: Mapping[str, Any]) -> None:
    page.add("", "## d. Scoring", "")
    page.add(f"{found['rows']} rows, {found['labels']} labels; {found['right']:.1%} right.", "")
    page.add("| scorer | queries/s | ratio |", "| --- | ---: | ---: |")
    base = found["lm_eval_queries_per_second"]
    ways = {
        f"lm_eval `hf`, bfloat16 (batch {found['lm_eval_batch']})": base,
        "multitask, float32": found["float32_queries_per_second"],
        "multitask, bfloat16": found["bfloat16_queries_per_second"],
    }
    page.add(*(f"| {name} | {rate:,.1f} | {rate / base:.1f} |" for name, rate in ways.items()))
    good = page.goal("argmax", found["same"] >= ARGMAX)
    page.add("", f"Best label in bfloat16 equal to float32: {found['same']:.2%} of rows ({good});")
    page.add(f"equal to lm_eval's in bfloat16: {found['lm_eval_same']:.0%}.")


def _killed(page: _Page, found: Mapping[str, Any]) -> None:
    page.add("", "## e. Killed and resumed", "")
    gap = found["difference"]
    killed = found["killed_after_step"] is not None and found["code"] == 0
    good = page.goal("resume", killed and gap is not None and gap <= RESUMED)
    said = "the courses have different lengths" if gap is None else f"at most {gap:.1e}"
    page.add(
        f"`multitask train`, its process killed after the checkpoint of step "
        f"{found['killed_after_step']}; it ended with code {found['code']} after "
        f"{len(found['losses'])} steps. Relative difference of the losses to an undisturbed "
        f"training: {said} ({good})."
    )


def _doctor(page: _Page, found: Mapping[str, Any]) -> None:
    page.add("", "## f. Doctor", "", f"Exit code {found['code']}.", "", "```")
    page.add(*found["output"].strip().splitlines(), "```")
