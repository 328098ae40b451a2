"""One job of the proof, in a process of its own: it changes Axolotl and CUDA for good.

    python -m benchmarks.gpu_proof.job JOB.json

The process imports first, and only then waits for the device: alone where it measures, beside
others where it compares losses. Its result lies in ``JOB.result.json``.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

Job = dict[str, Any]


@contextmanager
def device_of(job: Job) -> Iterator[None]:
    """Hold the device, alone where the job is ``exclusive``."""
    with Path(job["lock"]).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if job.get("exclusive") else fcntl.LOCK_SH)
        yield


def probe(job: Job) -> dict[str, Any]:
    """What the machine is, and which attention it can train packed rows with."""
    import torch

    with device_of(job):
        found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
        if job["device"] == "cpu":
            return found | {"gpu": None, "attention": ["sdpa"]}
        properties = torch.cuda.get_device_properties(0)
        major, minor = torch.cuda.get_device_capability(0)
        found |= {
            "gpu": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"sm_{major}{minor}",
            "cuda": torch.version.cuda,
        }
        found["attention"], found["refused"] = _attentions()
        return found


def _attentions() -> tuple[list[str], dict[str, str]]:
    """Attention implementations, best first, that run forward and backward here."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    usable: list[str] = []
    refused: dict[str, str] = {}
    names = ["flash_attention_2", "sdpa", "flex_attention", "xformers"]
    if torch.cuda.get_device_capability(0) < (9, 0):
        names.remove("sdpa")  # build-config refuses it there: the loss may be 0.0
    # Axolotl runs packed rows under sdpa through torch's own flash kernels (varlen_attn).
    for name in names:
        try:
            if name == "xformers":
                import xformers.ops  # noqa: F401
            else:
                model = AutoModelForCausalLM.from_config(
                    config, dtype=torch.bfloat16, attn_implementation=name
                ).cuda()
                tokens = torch.randint(0, 64, (1, 256), device="cuda")
                positions = torch.arange(128, device="cuda").repeat(2)[None]
                model(input_ids=tokens, position_ids=positions, labels=tokens).loss.backward()
            usable.append(name)
        except Exception as error:  # noqa: BLE001 (whatever it is, this one cannot be used)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            refused[name] = lines[0][:200]
    return usable, refused


def models(job: Job) -> dict[str, Any]:
    """Random models in the shapes of known ones, with a tokenizer trained on the texts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from multitask.models import model_info
    from multitask.toy import train_tokenizer

    texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    found = {}
    with device_of(job), torch.device(job["device"]):
        for name, like in job["models"].items():
            info = model_info(like["model"], Path())
            assert info.config is not None
            keys = {k: v for k, v in info.config.items() if k != "model_type"}
            keys |= like.get("keys", {})
            tokenizer = train_tokenizer(texts, vocabulary=like["tokens"], context=16384)
            if like.get("own_vocabulary"):
                keys["vocab_size"] = len(tokenizer)
            keys |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
            keys |= {"eos_token_id": tokenizer.eos_token_id}
            torch.manual_seed(0)
            config = AutoConfig.for_model(info.model_type, **keys)
            dtype = torch.bfloat16 if job["device"] == "cuda" else torch.float32
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            folder = Path(job["folder"]) / name
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            found[name] = sum(p.numel() for p in model.parameters())
    return {"parameters": found}


def train(job: Job) -> dict[str, Any]:
    """Train a run with Axolotl, in this process; losses, seconds and memory of its steps."""
    import torch
    import yaml
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets
    from axolotl.train import train as train_axolotl

    from benchmarks.gpu_proof import watch

    root = Path(job["run"])
    estimate, rows = None, None
    if "spec" in job:
        estimate, rows = _build(job)
    config = root / "axolotl.yaml"
    keys = yaml.safe_load(config.read_text(encoding="utf-8")) | job.get("keys", {})
    keys["plugins"] = [*keys.get("plugins", []), "benchmarks.gpu_proof.watch.WatchPlugin"]
    config.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    if rows is None:
        rows = len(Path(keys["datasets"][0]["path"]).read_text(encoding="utf-8").splitlines())
    if not job.get("save"):
        import axolotl.train

        axolotl.train.save_trained_model = lambda *_args, **_kwargs: None
    os.chdir(root)
    with device_of(job):
        if job["device"] == "cuda":
            torch.cuda.init()
        begin = time.perf_counter()
        cfg = load_cfg(str(config))
        _, _, trainer = train_axolotl(
            cfg=cfg, dataset_meta=load_datasets(cfg=cfg, cli_args=TrainerCliArgs())
        )
        seconds = time.perf_counter() - begin
        steps = watch.STEPS
        found: dict[str, Any] = {
            "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "rows": rows,
            "step_seconds": [b - a for a, b in pairwise(steps)],
            "seconds": seconds,
            "estimate": estimate,
            "attention": keys.get("attn_implementation"),
            "packed": bool(cfg.sample_packing),
            "sequence_len": cfg.sequence_len,
            "batch": [cfg.micro_batch_size, cfg.gradient_accumulation_steps],
        }
        if job["device"] == "cuda":
            found["peak_gb"] = torch.cuda.max_memory_reserved() / 1e9
            found["allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _build(job: Job) -> tuple[dict[str, float] | None, int]:
    """Build the run; what the estimate says, and the rows of an epoch."""
    from dataclasses import asdict

    from multitask.build import build_config
    from multitask.spec import load_spec

    root = Path(job["run"])
    path = root.with_name(f"{root.name}.spec.yaml")
    path.write_text(json.dumps(job["spec"]), encoding="utf-8")
    setup = build_config(load_spec(path), root, validate=False).setup
    assert setup.workload is not None
    quote = setup.estimate
    memory = None if quote is None else asdict(quote.memory) | {"total": quote.memory.total}
    if memory is not None:
        memory["step_seconds"] = quote.step.total
    return memory, setup.workload.rows


def score(job: Job) -> dict[str, Any]:
    """Score a label set in float32, in bfloat16 and with lm_eval."""
    import gc

    import torch

    from benchmarks.scoring_speed import best_lm_eval, ours
    from multitask.scoring.model import load_model

    rows = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    labels = json.loads(Path(job["labels"]).read_text(encoding="utf-8"))
    found: dict[str, Any] = {"rows": len(rows), "labels": len(labels)}
    best: dict[str, list[int]] = {}
    with device_of(job):
        for dtype in ("float32", "bfloat16"):
            loaded = load_model(job["model"], dtype=dtype)
            ours(loaded, rows[:16], labels, None)  # compiled kernels, warm caches
            begin = time.perf_counter()
            scores = ours(loaded, rows, labels, None)
            _wait(job)
            found[f"{dtype}_queries_per_second"] = len(rows) / (time.perf_counter() - begin)
            best[dtype] = [one.best for one in scores]
            if dtype == "float32":
                del loaded
                gc.collect()
                if job["device"] == "cuda":
                    torch.cuda.empty_cache()
        same = [a == b for a, b in zip(best["float32"], best["bfloat16"], strict=True)]
        found["same"] = sum(same) / len(same)
        found["right"] = sum(
            labels[b] == row["label"] for b, row in zip(best["float32"], rows, strict=True)
        ) / len(rows)
        few = rows[: job["lm_eval_rows"]]
        reference, size = best_lm_eval(loaded, few[:2], labels)
        begin = time.perf_counter()
        theirs = reference(few)
        _wait(job)
        found["lm_eval_queries_per_second"] = len(few) / (time.perf_counter() - begin)
        found["lm_eval_batch"] = size
        agreed = [int(row.argmax()) == b for row, b in zip(theirs, best["bfloat16"], strict=False)]
        found["lm_eval_same"] = sum(agreed) / len(agreed)
    return found


def _wait(job: Job) -> None:
    if job["device"] == "cuda":
        import torch

        torch.cuda.synchronize()


KINDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "probe": probe,
    "models": models,
    "train": train,
    "score": score,
}


def run(path: Path) -> None:
    """Run a job's file, and write its result beside it."""
    job = json.loads(path.read_text(encoding="utf-8"))
    result = KINDS[job["kind"]](job)
    path.with_suffix(".result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
