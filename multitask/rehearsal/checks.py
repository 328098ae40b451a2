"""What a rehearsal checks: a run's files before it trains, and what the training left."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from multitask.checkpoints import list_checkpoints
from multitask.checks import Check, Checklist
from multitask.cluster import Cluster
from multitask.data.readers import iterate_rows
from multitask.errors import InputError
from multitask.files import read_json, read_mapping
from multitask.models import model_info
from multitask.models.adapter import load_adapter
from multitask.rehearsal.adapt import SAVE_STEPS
from multitask.run import Run
from multitask.runners.axolotl.checks import check_config
from multitask.runners.axolotl.method import held_bytes
from multitask.runners.axolotl.plan import Plan

_ROWS_PER_TASK, _TEMPLATE_ROWS, _QUESTIONS = 200, 5, 20
# Folders that machines do not share as a rule.
_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/scratch", "/local", "/run")  # noqa: S108
_MOST_LEFT_OUT = 0.05  # of an epoch's rows
_SHARDS = "pytorch_model_fsdp_0"
_HELD = ("weights", "gradients", "optimizer")
_WIDTH_TOLERANCE = 0.05


def check_files(
    checks: Checklist, run: Run, config: Mapping[str, Any], cluster: Cluster, tokenizer: Any
) -> None:
    """Check a run as it was built, by its ``axolotl.yaml`` and the rehearsal's tokenizer."""
    with checks.check("configuration") as check:
        _configuration(check, run, config, cluster)
    with checks.check("plugins can be imported") as check:
        _plugins(check, config)
    with checks.check("launch scripts parse") as check:
        scripts = sorted(run.launch.glob("*.sh"))
        check.answer = ", ".join(script.name for script in scripts)
        for script in scripts:
            done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)  # noqa: PLW1510
            if done.returncode:
                check.fail(done.stderr.strip())
                break
        if not scripts:
            check.fail(f"there are none in {run.launch}")
    with checks.check("output directory is shared by all nodes") as check:
        _output(check, run, config, cluster)
    with checks.check("batch arithmetic") as check:
        _batch(check, run, config, cluster)
    with checks.check("chat template has the assistant's turn") as check:
        _template(check, run, tokenizer)
    with checks.check("answers fit into sequence_len") as check:
        _answers(check, run, int(config.get("sequence_len") or 0), tokenizer)


def _configuration(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    info = model_info(str(config.get("base_model", "")), run.root)
    findings = check_config(
        Plan(
            dict(config),
            on_cpu=cluster.on_cpu,
            world_size=cluster.world_size,
            compute_capability=cluster.compute_capability,
            model_type=info.model_type,
            model=info,
        )
    )
    check.answer = f"{len(config)} keys, {len(findings)} warnings"
    if errors := [str(finding) for finding in findings if not finding.passed]:
        check.fail("\n".join(errors))


def _plugins(check: Check, config: Mapping[str, Any]) -> None:
    names = [str(name) for name in config.get("plugins") or []]
    check.answer = ", ".join(name.rpartition(".")[-1] for name in names)
    if not any(name.startswith("multitask.") for name in names):
        check.fail("multitask's plugin is not among `plugins`; Axolotl would train without it")
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            check.fail(f"{name} cannot be imported ({error}); Axolotl would train without it")
            return


def _output(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    path = Path(str(config.get("output_dir", "")))
    if not path.is_absolute() or run.root.resolve() in path.parents:
        check.answer = f"{path}, inside the run directory"
    elif cluster.nodes > 1 and str(path).startswith(_LOCAL):
        check.fail(
            f"output_dir is {path}, which is another folder on each of {cluster.nodes} nodes; "
            "each would keep only its own shards. Use a path inside the run directory"
        )
    else:
        check.answer = f"{path}; see that all nodes have it"


def _batch(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    micro = int(config.get("micro_batch_size") or 1)
    accumulation = int(config.get("gradient_accumulation_steps") or 1)
    size = micro * accumulation * cluster.world_size
    rows = sum(1 for _ in iterate_rows(run.split("train")))
    check.answer = f"{cluster.world_size} x {micro} x {accumulation} = {size} sequences per step"
    if config.get("sample_packing"):
        return
    if rows < size:
        check.fail(f"{check.answer}, but there are {rows} rows: not one step is whole")
    elif (share := (rows % size) / rows) > _MOST_LEFT_OUT:
        check.fail(
            f"{check.answer} leave {rows % size} of {rows} rows out of every epoch ({share:.0%}); "
            "use a batch that divides the rows more evenly"
        )


def _template(check: Check, run: Run, tokenizer: Any) -> None:
    from multitask.scoring.encode import Encoder

    encoder, seen = Encoder(tokenizer), Counter[str]()
    for row in iterate_rows(run.split("train")):
        seen[row["task"]] += 1
        if seen[row["task"]] <= _TEMPLATE_ROWS:
            prompt, answer = (message["content"] for message in row["messages"][-2:])
            text = tokenizer.decode(encoder.encode(prompt, [answer]).answers[0])
            if answer.strip() not in text:
                check.fail(f"the answer {answer!r} of {row['id']} comes out as {text!r}")
                return
    check.answer = ", ".join(seen)


def _answers(check: Check, run: Run, limit: int, tokenizer: Any) -> None:
    """Axolotl drops rows that are too long; a task may vanish that way."""
    lengths: dict[str, list[int]] = {}
    for row in iterate_rows(run.split("train")):
        found = lengths.setdefault(row["task"], [])
        if len(found) < _ROWS_PER_TASK:
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
            found.append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    if not limit or not lengths:
        raise InputError("sequence_len or rows are missing")
    shares = {task: sum(n > limit for n in ns) / len(ns) for task, ns in lengths.items()}
    some = ", ".join(f"{share:.0%} of {task} dropped" for task, share in shares.items() if share)
    check.answer = f"longest of {limit}: {max(map(max, lengths.values()))}" + f"; {some}" * bool(
        some
    )
    if gone := [task for task, share in shares.items() if share == 1.0]:
        check.fail(f"every row of {', '.join(gone)} is longer than {limit} tokens and is dropped")


# What a training left behind


def events(run: Run) -> Iterator[dict[str, Any]]:
    """The events of the plugin and of faults; half a line of a killed process is left out."""
    if run.trainer_events.is_file():
        with run.trainer_events.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)


def losses_by_step(run: Run) -> dict[int, str]:
    """The training loss of each step as it was logged; of a step trained twice, the last."""
    found = {
        int(event["step"]): str(event["values"]["loss"])
        for event in events(run)
        if event["event"] == "log" and "loss" in (event.get("values") or {})
    }
    return dict(sorted(found.items()))


def steps_lost(run: Run) -> list[int]:
    """For each restart, how many steps had been trained beyond where it resumed."""
    lost: list[int] = []
    reached: int | None = None
    for event in events(run):
        step = int(event["step"])
        if event["event"] != "start":
            reached = max(reached or 0, step)
        else:
            lost += [] if reached is None else [max(0, reached - step)]
            reached = step
    return lost


def check_losses(checks: Checklist, losses: Mapping[int, str], steps: int) -> None:
    """Check that every step of a training has a finite loss."""
    with checks.check("every step has a finite loss") as check:
        values = [float(loss) for loss in losses.values()]
        if values:
            check.answer = f"{len(values)} steps, from {values[0]:.4f} to {values[-1]:.4f}"
        missing = [step for step in range(1, steps + 1) if step not in losses]
        if missing or not all(map(math.isfinite, values)):
            check.fail(f"steps without a finite loss: {missing or losses}")


def check_checkpoints(
    checks: Checklist, run: Run, config: Mapping[str, Any], *, ranks: int, steps: int
) -> None:
    """Check completeness, rotation, sharding and per-task evaluation of ``ranks`` that trained."""
    keep = int(config.get("save_total_limit") or 2)
    found = list_checkpoints(run.model)
    with checks.check("checkpoints are complete") as check:
        torn = [f"{c.path.name}: {'; '.join(c.problems)}" for c in found if not c.complete]
        check.answer = ", ".join(c.path.name for c in found)
        if torn or not found:
            check.fail("; ".join(torn) or "there are none")
    with checks.check("rotation keeps the newest") as check:
        check.answer = f"{len(found)} of at most {keep}"
        newest, least = max((c.step for c in found), default=0), min(keep, steps // SAVE_STEPS)
        if not least <= len(found) <= max(keep, 2) or newest < steps - SAVE_STEPS:
            check.fail(f"{len(found)} checkpoints, the newest at step {newest}; keep is {keep}")
    if config.get("fsdp_config") and ranks > 1:
        with checks.check("state is sharded over the mesh") as check:
            shards = list((found[-1].path / "optimizer_0").glob("*.distcp")) if found else []
            least = min(int(config.get("dp_shard_size") or ranks), ranks)
            check.answer = f"{len(shards)} shards of the optimizer"
            if len(shards) < least:
                check.fail(f"{check.answer}, {least} expected")
    with checks.check("every task is evaluated while training") as check:
        tasks = read_json(run.manifest)["tasks"]
        wanted = {name for name, task in tasks.items() if task["counts"]["validation"]["rows"]}
        keys = (str(key).split("/") for event in events(run) for key in event.get("values") or {})
        seen = {parts[1] for parts in keys if len(parts) == 3 and parts[0] == "eval"}
        check.answer = ", ".join(sorted(seen & wanted))
        if wanted - seen:
            check.fail(f"without an evaluation: {', '.join(sorted(wanted - seen))}")


def check_model(checks: Checklist, run: Run, config: Mapping[str, Any]) -> None:
    """Check that the final model is there, whole, can be loaded merged, and scores every task."""
    adapter = config.get("adapter") is not None
    with checks.check("final save", needed=True) as check:
        wanted = "adapter_model.safetensors" if adapter else "model.safetensors"
        check.answer = f"{wanted}, {_numbers(run.model / wanted):,} numbers"
        if adapter:
            _same_as_last_checkpoint(check, run)
    with checks.check("merge and load for inference", needed=True) as check:
        from multitask.scoring.model import load_model

        model = load_model(str(run.model)).model
        check.answer = f"{type(model).__name__}, {model.num_parameters():,} parameters"
    with checks.check(f"score {_QUESTIONS} rows of every task") as check:
        from multitask.evaluation.evaluate import evaluate
        from multitask.evaluation.requests import Settings

        settings = Settings(baselines=False, generate=_QUESTIONS)
        outcome = evaluate(run, limit=_QUESTIONS, name="rehearsal", settings=settings, restart=True)
        tasks = outcome.results["tasks"]
        check.answer = ", ".join(f"{name} {task['n']}" for name, task in tasks.items())


def _numbers(path: Path) -> int:
    """How many numbers a file of weights holds; raises where it is torn or not there."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _same_as_last_checkpoint(check: Check, run: Run) -> None:
    """Compare the final adapter, in its file and loaded again, with the last checkpoint's."""
    import torch
    from peft import PeftConfig, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    last = list_checkpoints(run.model)[-1].path
    base = str(PeftConfig.from_pretrained(str(run.model)).base_model_name_or_path)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(base), run.model)
    trained = saved_adapter(last)

    def same(name: str, found: Mapping[str, Any]) -> bool:
        both = name in trained and name in found
        return both and torch.equal(trained[name].float(), found[name].float())

    for what, found in (
        ("the final file", load_file(run.model / "adapter_model.safetensors")),
        ("the adapter loaded again", get_peft_model_state_dict(again)),
    ):
        if other := [n for n in sorted(trained.keys() | found.keys()) if not same(n, found)]:
            check.fail(
                f"{len(other)} of {len(trained)} tensors of {what} are not those of {last.name}, "
                f"such as {other[0]}"
            )
            return
    check.answer += f"; {len(trained)} tensors are those of {last.name}, also loaded again"


def saved_adapter(checkpoint: Path) -> dict[str, Any]:
    """The adapter in a checkpoint, sharded or not, under PEFT's names."""
    if not (checkpoint / _SHARDS).is_dir():
        from safetensors.torch import load_file

        return dict(load_file(checkpoint / "adapter_model.safetensors"))
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    content: dict[str, Any] = {}
    reader, planner = FileSystemReader(checkpoint / _SHARDS), _EmptyStateDictLoadPlanner()
    _load_state_dict(content, storage_reader=reader, planner=planner, no_dist=True)
    return content["model"] if set(content) == {"model"} else content


def probe_file(run: Run) -> Path:
    """Where the ranks of an undisturbed rehearsal write what they found out."""
    return run.logs / "probe.json"


def check_probe(checks: Checklist, run: Run, *, ranks: int) -> None:
    """Check what the ranks found out about their first step (:mod:`multitask.rehearsal.probe`)."""
    config, found = read_mapping(run.axolotl), read_json(probe_file(run))
    for name, title, unused, tolerance in (
        ("recompute", "recomputing layers does not change gradients", "none is recomputed", 0.01),
        ("kernels", "LoRA kernels do not change gradients", "there are none", 0.1),
    ):
        with checks.check(title) as check:
            errors = found["gradients"].get(name, {})
            check.answer = ", ".join(f"{kind} {error:.2g}" for kind, error in errors.items())
            if not all(error <= tolerance for error in errors.values()):
                check.fail(f"they are off by {check.answer}")
            elif name not in found["gradients"]:
                check.answer = unused
    with checks.check("copies of the model are equal after training") as check:
        copies = found["copies"]
        check.answer = f"{copies['parts']} parts that several ranks hold"
        if copies["differing"]:
            check.fail(f"{copies['differing']} of {copies['parts']} parts differ between ranks")
    with checks.check("what learns is held as the estimate says") as check:
        if widths := found.get("widths"):
            compare_widths(check, config, widths, ranks)
        else:
            check.answer = "DeepSpeed holds copies of its own"


def compare_widths(
    check: Check, config: Mapping[str, Any], widths: Mapping[str, float], ranks: int
) -> None:
    """Compare bytes per parameter with the estimate's."""
    sharding = "fsdp" if config.get("fsdp_config") else "ddp" if ranks > 1 else "none"
    assumed = held_bytes(config, sharding)._asdict()
    check.answer = ", ".join(f"{name} {widths[name]:g}" for name in _HELD) + " bytes per parameter"
    wrong = [
        f"{name}: {widths[name]:g} bytes per parameter, {assumed[name]:g} in the estimate"
        for name in _HELD
        if abs(widths[name] - assumed[name]) > _WIDTH_TOLERANCE
    ]
    if wrong:
        check.fail("; ".join(wrong))
