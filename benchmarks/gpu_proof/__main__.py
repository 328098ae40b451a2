"""Prove on one GPU, in minutes and without a network, that what is configured is right and fast.

    make gpu-proof                     # DEVICE=cpu for the same in small, WHEELS=dir for wheels

Models are made on the spot with random weights in the shapes of known ones. The parts:

a. Every method trains packed, with flash attention and Liger's kernels, and once more without any
   of them; each optimizer step sees the same rows, so the losses have to agree.
b. Rows per second beside the settings of Axolotl's own example.
c. Measured peak memory beside the estimate.
d. Scoring in bfloat16 beside float32, and beside lm_eval.
e. A training that is killed and goes on, beside one that is not.
f. ``multitask doctor``.

Needs Python with torch 2.11 or later; what else is missing comes from the wheels.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TASKS = ["text_claims", "banking77", "commonsense_qa"]
LABELS = 77
METHODS = ["full", "lora", "dora", "rslora", "loraplus", "pissa", "adalora", "qlora", "lora-8bit"]
LIGER = ("liger_rope", "liger_rms_norm", "liger_glu_activation")
LIGER_LOSS = "liger_fused_linear_cross_entropy"
LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")

SHORTEST = 10.0
"""No job is started with fewer seconds left."""

Job = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        methods: Methods that are trained.
        rows: Rows of an optimizer step in part a; all of them fit into one packed sequence.
        packed: Tokens of that sequence.
        steps: Optimizer steps in part a.
        base_steps: Steps that make the base model of parts a, d and e.
        timed_steps: Steps in part b.
        killed_steps: Steps in part e.
        questions: Rows in part d.
        lm_eval_rows: Rows that lm_eval scores.
        together: Processes at a time.
    """

    methods: Sequence[str]
    rows: int
    packed: int
    steps: int
    base_steps: int
    timed_steps: int
    killed_steps: int
    questions: int
    lm_eval_rows: int
    together: int


GPU = Size(METHODS, 96, 6144, 30, 240, 40, 120, 500, 24, 6)
CPU = Size(["full", "lora", "qlora"], 16, 1024, 6, 30, 6, 48, 32, 2, 2)


class Started:
    """A job's process: a new one, or on a CPU a fork of this one, which has imported Axolotl."""

    def __init__(self, path: Path, environment: dict[str, str], *, fork: bool) -> None:
        self.path, self.begin = path, time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        with path.with_suffix(".log").open("wb") as log:
            if not fork:
                command = [sys.executable, "-m", "benchmarks.gpu_proof.job", str(path)]
                self._process = subprocess.Popen(
                    command, stdout=log, stderr=log, cwd=ROOT, env=environment
                )
                return
            self._pid = os.fork()
            if self._pid == 0:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                _be(path, environment)

    def poll(self, *, kill: bool) -> int | None:
        """The exit code, None while it runs."""
        if self._process is not None:
            if kill:
                self._process.kill()
            return self._process.poll()
        if kill:
            os.kill(self._pid, signal.SIGKILL)
        pid, status = os.waitpid(self._pid, 0 if kill else os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def _be(path: Path, environment: dict[str, str]) -> None:
    """In a fork: be the process of a job; never returns."""
    from benchmarks.gpu_proof import job

    code = 1
    try:
        os.environ.update(environment)
        job.run(path)
        code = 0
    except BaseException:  # noqa: BLE001 (a fork must never return)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass
class Proof:
    """One proof: its folder, what it found, and when it has to end."""

    out: Path
    device: str
    size: Size
    data_dir: Path | None
    site: Path | None
    end: float
    parts: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Variables of every job."""
        paths = [str(ROOT), *([str(self.site)] if self.site else [])]
        paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
        return dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join(paths),
            "HF_HUB_OFFLINE": "1",
            "AXOLOTL_DO_NOT_TRACK": "1",
            "DS_IGNORE_CUDA_DETECTION": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def run(self, jobs: Sequence[Job]) -> list[dict[str, Any] | None]:
        """Run jobs, several at a time; None where one failed or time was over."""
        waiting, running = list(jobs), list[Started]()
        while waiting or running:
            while waiting and len(running) < self.size.together:
                self._start(waiting.pop(0), running)
            for started in list(running):
                late = time.monotonic() > self.end
                code = started.poll(kill=late)
                if code is not None:
                    running.remove(started)
                    self._ended(started, "time was over" if late else None, code)
            time.sleep(0.05)
        return [self._result(job) for job in jobs]

    def _start(self, job: Job, running: list[Started]) -> None:
        if self.end - time.monotonic() < SHORTEST:
            self.problems[job["name"]] = "not started: time was over"
            return
        folder = self.out / "jobs"
        folder.mkdir(exist_ok=True)
        path = folder / f"{job['name']}.json"
        job |= {"device": self.device, "lock": str(folder / "device.lock")}
        path.write_text(json.dumps(job, indent=1), encoding="utf-8")
        running.append(Started(path, self.environment(), fork=self.device == "cpu"))

    def _ended(self, started: Started, why: str | None, code: int) -> None:
        name, seconds = started.path.stem, time.monotonic() - started.begin
        print(f"    {name}: {'done' if code == 0 else 'FAILED'} in {seconds:.0f} s", flush=True)
        if code != 0:
            text = started.path.with_suffix(".log").read_text(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            self.problems[name] = why or (lines or ["no message"])[-1][:400]

    def _result(self, job: Job) -> dict[str, Any] | None:
        path = self.out / "jobs" / f"{job['name']}.result.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else None
        return None if job["name"] in self.problems else found

    def spec(self, model: str, method: str, **more: Any) -> dict[str, Any]:
        """A spec on this machine; ``axolotl`` keys are added to what every job has."""
        axolotl = {"logging_steps": 1} | more.pop("axolotl", {})
        spec: dict[str, Any] = {
            "model": str(self.out / "models" / model),
            "tasks": TASKS,
            "sample": True,
            "method": method,
            "cluster": "cpu" if self.device == "cpu" else str(self.out / "cluster.yaml"),
            "templates": {"phrasings": 1},
            "leakage": {"near_duplicates": False},
            "evaluation": {"rows_per_task": 0},
        }
        return spec | more | {"axolotl": axolotl}

    def real(self) -> dict[str, Any]:
        """Keys of a spec for banking77: the real one where it is given, else the sample."""
        if self.data_dir is None:
            return {"tasks": ["banking77"]}
        return {"tasks": ["banking77"], "sample": False, "data_dir": str(self.data_dir)}

    def packed_keys(self) -> dict[str, Any]:
        """Axolotl's keys where packing is not what a build would choose by itself here."""
        attention = self.parts["machine"]["attention"][0]
        if self.device == "cpu":
            keys = {"sample_packing": True, "pad_to_sequence_len": True, "group_by_length": False}
            return keys | {"eval_sample_packing": False}
        return {} if attention == "flash_attention_2" else {"attn_implementation": attention}


def prepare(proof: Proof) -> None:
    """Look at the machine, make the models, and train one of them a little."""
    from multitask.data.prepare import prepare_tasks
    from multitask.spec import Spec

    prepared = prepare_tasks(
        Spec.model_validate(
            {"model": "placeholder/model", "method": "full", "cluster": "cpu"}
            | {"tasks": TASKS, "sample": True}
        )
    )
    rows = map(json.loads, prepared.lines("train"))
    texts = [message["content"] for row in rows for message in row["messages"]]
    (proof.out / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    like = {"model": "Qwen/Qwen3-0.6B", "tokens": 8000}
    other = {"model": "meta-llama/Llama-3.2-1B-Instruct", "tokens": 8000}
    if proof.device == "cpu":
        less = {"keys": small, "tokens": 1500, "own_vocabulary": True}
        like, other = like | less, other | less
    made, machine = proof.run(
        [
            {"name": "models", "kind": "models", "models": {"qwen-random": like, "llama": other}}
            | {"texts": str(proof.out / "texts.json"), "folder": str(proof.out / "models")},
            {"name": "probe", "kind": "probe"},
        ]
    )
    if made is None or machine is None:
        sys.exit(f"nothing can be proven here: {proof.problems}")
    proof.parts["machine"] = machine | made
    if proof.device == "cuda":
        cluster = {
            "description": f"1 {machine['gpu']}",
            "gpus_per_node": 1,
            "gpu": machine["gpu"],
            "memory_gb": machine["memory_gb"],
            "compute_capability": machine["capability"],
            "bf16_tflops": 989 if machine["capability"] == "sm_90" else 312,
        }
        (proof.out / "cluster.yaml").write_text(yaml.safe_dump(cluster), encoding="utf-8")
    steps = proof.size.base_steps
    # The queries are learnt too: random weights know no language.
    keys = proof.packed_keys() | {"max_steps": steps, "train_on_inputs": True}
    spec = proof.spec("qwen-random", "full", learning_rate=6e-4, epochs=40, axolotl=keys)
    spec |= proof.real() | {"checkpoint": {"save_steps": steps}, "sequence_len": 512}
    job = {"name": "base", "kind": "train", "run": str(proof.out / "base"), "spec": spec}
    (base,) = proof.run([job | {"save": True, "exclusive": True}])
    if base is None:
        sys.exit(f"no base model was trained: {proof.problems}")
    proof.parts["base"] = base
    (proof.out / "models" / "qwen").symlink_to(proof.out / "base" / "model")


def methods(proof: Proof) -> None:
    """Part a (and c): every method with kernels and packing, and without."""
    size = proof.size
    jobs = []
    for method in size.methods:
        rate = {"full": 1e-4}.get(method, 1e-3)
        common = {"learning_rate": rate, "epochs": size.steps, "sequence_len": size.packed}
        common |= {"mixture": {"size": size.rows}, "checkpoint": {"save_steps": size.steps}}
        fast = proof.spec(
            "qwen", method, global_batch_size=1, axolotl=proof.packed_keys(), **common
        )
        off = dict.fromkeys((*LIGER, LIGER_LOSS), False) if proof.device == "cuda" else {}
        off |= {"sample_packing": False, "attn_implementation": "sdpa"}
        off |= {"pad_to_sequence_len": False, "group_by_length": True}
        if method != "full":
            off |= dict.fromkeys(LORA_KERNELS, False)
        plain = proof.spec("qwen", method, global_batch_size=size.rows, axolotl=off, **common)
        for kind, spec in (("packed", fast), ("plain", plain)):
            name = f"{method}-{kind}"
            jobs.append({"name": name, "kind": "train", "spec": spec})
            jobs[-1]["run"] = str(proof.out / "runs" / name)
    (proof.out / "runs").mkdir()
    found = dict(zip([job["name"] for job in jobs], proof.run(jobs), strict=True))
    proof.parts["methods"] = {
        method: {kind: found[f"{method}-{kind}"] for kind in ("packed", "plain")}
        for method in size.methods
    }


def timed(proof: Proof) -> None:
    """Parts b and d, and the undisturbed half of e: alone on the device, one after the other."""
    steps = proof.size.timed_steps
    ours = proof.spec("llama", "lora", axolotl=proof.packed_keys() | {"max_steps": steps})
    ours |= proof.real() | {"epochs": 40, "checkpoint": {"save_steps": steps}}
    root = proof.out / "runs" / "speed-ours"
    example = proof.out / "runs" / "speed-example"
    example.mkdir(parents=True)
    file = {"path": str(root / "data" / "train.jsonl"), "ds_type": "json", "type": "chat_template"}
    # examples/llama-3/instruct-lora-8b.yml of Axolotl 0.19, without its 8-bit base (slower).
    keys = {
        "base_model": str(proof.out / "models" / "llama"),
        "chat_template": "tokenizer_default",
        "datasets": [file | {"split": "train", "field_messages": "messages"}],
        "output_dir": str(example / "model"),
        "dataset_prepared_path": str(example / "prepared"),
        "sequence_len": 4096,
        "sample_packing": False,
        "adapter": "lora",
        "lora_r": 32,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_linear": True,
        "gradient_accumulation_steps": 4,
        "micro_batch_size": 2,
        "num_epochs": 4,
        "optimizer": "adamw_bnb_8bit" if proof.device == "cuda" else "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": 2e-4,
        "bf16": "auto" if proof.device == "cuda" else False,
        "tf32": False,
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "attn_implementation": proof.parts["machine"]["attention"][0],
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_steps": steps,
    }
    if proof.device == "cpu":
        keys |= dict.fromkeys(LORA_KERNELS, False)  # Axolotl turns them on; they need CUDA
    (example / "axolotl.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    (first,) = proof.run(
        [
            {"name": "speed-ours", "kind": "train", "run": str(root), "spec": ours}
            | {"exclusive": True}
        ]
    )
    rows, labels = _questions(proof)
    jobs: list[Job] = [
        {"name": "speed-example", "kind": "train", "run": str(example)},
        {"name": "score", "kind": "score", "model": str(proof.out / "models" / "qwen")}
        | {"rows": rows, "labels": labels, "lm_eval_rows": proof.size.lm_eval_rows},
        {"name": "undisturbed", "kind": "train", "save": True}
        | {"spec": _killed_spec(proof), "run": str(proof.out / "runs" / "undisturbed")},
    ]
    second, scored, undisturbed = proof.run([job | {"exclusive": True} for job in jobs])
    proof.parts["speed"] = {"ours": first, "example": second}
    proof.parts["scoring"] = scored
    proof.parts["undisturbed"] = undisturbed


def _killed_spec(proof: Proof) -> dict[str, Any]:
    steps = proof.size.killed_steps
    keys = proof.packed_keys() | {"max_steps": steps}
    spec = proof.spec("qwen", "lora", axolotl=keys, epochs=400, learning_rate=1e-3)
    return spec | {"checkpoint": {"save_steps": steps // 6}, "sequence_len": 512}


def _questions(proof: Proof) -> tuple[str, str]:
    """Files of the rows and of the 77 labels that are scored."""
    from multitask.data.prepare import prepare_tasks
    from multitask.spec import Spec

    keys = {"model": "placeholder/model", "method": "full", "cluster": "cpu", "sample": True}
    keys |= {"templates": {"phrasings": 1}, "leakage": {"near_duplicates": False}}
    prepared = prepare_tasks(Spec.model_validate(keys | proof.real()))
    every = [json.loads(line) for split in ("train", "test") for line in prepared.lines(split)]
    labels = sorted({row["label"] for row in every})
    words = sorted({word for label in labels for word in label.split("_")})
    rng = random.Random(0)
    while len(labels) < LABELS:  # the sample has fewer
        label = "_".join(rng.choice(words) for _ in range(3))
        labels += [label] if label not in labels else []
    rows = list(map(json.loads, prepared.lines("test")))
    rng.shuffle(rows)
    while len(rows) < proof.size.questions:
        rows += every
    paths = proof.out / "questions.json", proof.out / "labels.json"
    paths[0].write_text(json.dumps(rows[: proof.size.questions]), encoding="utf-8")
    paths[1].write_text(json.dumps(labels), encoding="utf-8")
    return str(paths[0]), str(paths[1])


def killed(proof: Proof) -> None:
    """Part e: `multitask train`, its training process killed after a save."""
    from multitask.build import build_config
    from multitask.spec import load_spec

    root = proof.out / "runs" / "killed"
    path = root.with_name("killed.spec.yaml")
    path.write_text(json.dumps(_killed_spec(proof)), encoding="utf-8")
    build_config(load_spec(path), root, validate=False)
    command = [sys.executable, "-m", "multitask", "train", str(root)]
    log = proof.out / "jobs" / "killed.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=ROOT, env=proof.environment()
        )
        step = _kill_after_save(process, root / "model", proof)
        try:
            code = process.wait(max(1.0, proof.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait(30)
    losses = _losses(root / "model")
    undisturbed = (proof.parts.get("undisturbed") or {}).get("losses", [])
    proof.parts["killed"] = {"code": code, "killed_after_step": step, "losses": losses}
    if code != 0:
        proof.problems["killed"] = f"`multitask train` ended with {code}; see {log}"
    proof.parts["killed"]["difference"] = _difference(losses, undisturbed)


def _kill_after_save(process: subprocess.Popen[bytes], model: Path, proof: Proof) -> int | None:
    """Kill the process that trains once it has gone on after its first save."""
    import psutil

    while process.poll() is None and time.monotonic() < proof.end:
        saved = sorted(model.glob("checkpoint-*/trainer_state.json"))
        if saved:
            time.sleep(1.0)
            for child in psutil.Process(process.pid).children(recursive=True):
                if "axolotl.cli.train" in " ".join(child.cmdline()) and not child.children():
                    child.send_signal(signal.SIGKILL)
                    return max(int(p.parent.name.split("-")[1]) for p in saved)
        time.sleep(0.05)
    return None


def _losses(model: Path) -> list[float]:
    states = sorted(
        model.glob("checkpoint-*/trainer_state.json"),
        key=lambda path: int(path.parent.name.split("-")[1]),
    )
    if not states:
        return []
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def _difference(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The largest relative difference of two courses of the loss; None where one is shorter."""
    if not a or len(a) != len(b):
        return None
    return max(abs(x - y) / max(abs(y), 1e-9) for x, y in zip(a, b, strict=True))


def doctor(proof: Proof) -> None:
    """Part f."""
    run = proof.out / "runs" / "speed-ours"
    command = [sys.executable, "-m", "multitask", "doctor", str(run), "--imports"]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=proof.environment(), check=False
    )
    proof.parts["doctor"] = {"code": found.returncode, "output": found.stdout + found.stderr}


def install(wheels: Path, out: Path) -> Path:
    """Unpack wheels into a folder of the proof's own."""
    site = out / "site"
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    if not files:
        sys.exit(f"no wheels in {wheels}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--target", str(site), *files]
    subprocess.run(command, check=True)
    return site


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-proof"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to use as well")
    parser.add_argument("--data-dir", type=Path, help="banking77 is here; else the sample")
    parser.add_argument("--minutes", type=float, default=8.0, help="ends by then")
    parser.add_argument("--parts", default="methods,timed,killed,doctor")
    parser.add_argument("--methods", help="only these, separated by commas")
    arguments = parser.parse_args()
    begin = time.monotonic()
    out = arguments.out.resolve()
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} exists already: remove it, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    site = install(arguments.wheels, out) if arguments.wheels else None
    if site is not None:
        sys.path.insert(0, str(site))
    size = CPU if arguments.device == "cpu" else GPU
    if arguments.methods:
        from dataclasses import replace

        size = replace(size, methods=arguments.methods.split(","))
    data_dir = arguments.data_dir.resolve() if arguments.data_dir else None
    end = begin + 60 * arguments.minutes
    proof = Proof(out, arguments.device, size, data_dir, site, end)
    from benchmarks.gpu_proof.page import finish

    if arguments.device == "cpu":
        # Each job is then a fork of this process; CUDA could not be used in one.
        from multitask.rehearsal.agent import prepare as import_axolotl

        import_axolotl()
    steps = {"methods": methods, "timed": timed, "killed": killed, "doctor": doctor}
    prepare(proof)
    for name in arguments.parts.split(","):
        print(f"{name} ({time.monotonic() - begin:.0f} s)", flush=True)
        steps[name](proof)
        passed = finish(proof.out, proof.parts, proof.problems, time.monotonic() - begin)
    print(proof.out.joinpath("gpu-proof.md").read_text(encoding="utf-8"))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
