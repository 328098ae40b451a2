"""Which values Axolotl's keys may have: the table behind `values`.

Axolotl's schema knows types and hardly any ranges, so most wrong values train without a word. Every
key of the schema's snapshot is in one of the tables here or is judged by a rule; a test holds
that, so that a new version of Axolotl cannot bring a key that nobody has looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from multitask.runners.axolotl.plan import Plan, number_of

INF = math.inf


class Limits(NamedTuple):
    """What a number may be.

    Attributes:
        low: Least value; below it is an error.
        high: Highest value; above it is an error.
        why: What is wrong outside, as a clause.
        use: A value that works, for values that no limit is near to.
        usual: Between which values it mostly is; outside is a warning.
        above: Whether ``low`` itself is wrong too.
        below: Whether ``high`` itself is wrong too.
    """

    low: float
    high: float
    why: str
    use: float
    usual: tuple[float, float] = (-INF, INF)
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is inside."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )


def _share(why: str, use: float, usual: tuple[float, float] = (-INF, INF)) -> Limits:
    return Limits(0, 1, why, use, usual, below=True)


def _count(why: str, use: float = 1, usual: tuple[float, float] = (-INF, INF)) -> Limits:
    return Limits(1, 1_000_000, why, use, usual)


def _positive(
    why: str, use: float, high: float, usual: tuple[float, float] = (-INF, INF)
) -> Limits:
    return Limits(0, high, why, use, usual, above=True)


LIMITS: dict[str, Limits] = {
    # Optimizer. transformers hands them on as they are; torch checks signs, others nothing.
    "adam_beta1": _share("Adam's mean of gradients never forgets", 0.9, (0.5, 0.99)),
    "adam_beta2": _share("Adam's variance of gradients never adapts", 0.999, (0.9, 0.99999)),
    "adam_beta3": _share("CAME's mean of instabilities never adapts", 0.9999, (0.9, 1)),
    "adam_epsilon": _positive(
        "it is added to every update's divisor: large, hardly anything is learned", 1e-8, 1e-3,
        (0, 1e-5),
    ),
    "adam_epsilon2": _positive("it is added to CAME's divisor", 1e-16, 1e-3),
    "weight_decay": Limits(
        0, 1, "weights grow, or are pulled to zero faster than they learn", 0.01, (0, 0.3)
    ),
    "max_grad_norm": _positive(
        "gradients are not clipped (transformers takes 0 for off), and one bad batch can ruin the "
        "model",
        1.0, 1e6, (0.01, 100),
    ),
    "embedding_lr": _positive("the embedding stands still, or diverges", 1e-5, 0.1),
    "embedding_lr_scale": _positive("the embedding stands still, or diverges", 1.0, 100),
    "loraplus_lr_ratio": _positive(
        "LoRA+ lets B learn faster than A, which is its point", 16, 1000, (1, 64)
    ),
    "loraplus_lr_embedding": _positive("the embedding stands still, or diverges", 1e-6, 0.1),
    "dion_lr": _positive("matrices stand still, or diverge", 0.01, 1),
    "dion_momentum": _share("momentum forgets nothing or everything", 0.95),
    "dion_rank_fraction": Limits(0, 1, "it is a share of a matrix's rank", 1.0, above=True),
    "dion_rank_multiple_of": _count("ranks are rounded up to a multiple of it"),
    "qgalore_rank": _count("gradients are projected to that rank", 256),
    "qgalore_update_proj_gap": _count("the projection is renewed after so many steps", 200),
    "qgalore_scale": _positive("updates are scaled by it", 0.25, 100),
    "qgalore_proj_bits": Limits(2, 8, "the projection has so many bits", 4),
    "qgalore_proj_group_size": _count("the projection is quantised in groups of it", 256),
    "qgalore_cos_threshold": Limits(-1, 1, "it is a cosine", 0.4),
    "qgalore_gamma_proj": _count("the interval grows by that factor", 2),
    "qgalore_queue_size": _count("a moving average over so many", 5),
    # Schedule.
    "warmup_ratio": _share(
        "it is a share of the run: the learning rate never reaches its peak", 0.03, (0, 0.3)
    ),
    "warmup_steps": Limits(0, 1e9, "there is no step before the first", 0),
    "cosine_min_lr_ratio": _share(
        "it is the share of the peak that the learning rate falls to", 0.1, (0, 0.5)
    ),
    "cosine_constant_lr_ratio": Limits(
        0, 1, "it is the share of the run after which the rate stays", 0.8, above=True, below=True
    ),
    "lr_div_factor": Limits(1, 1e6, "the rate starts at the peak divided by it", 25),
    "num_epochs": _positive("they are passes over the mixture", 2, 1000, (0, 20)),
    "max_steps": Limits(
        1, 1e9, "Axolotl takes 0 for no limit, and counts warm-up from a negative one", 1000
    ),
    # Batch and loading.
    "micro_batch_size": Limits(1, 1024, "sequences per GPU and pass", 1, (1, 128)),
    "gradient_accumulation_steps": Limits(1, 65536, "passes per optimizer step", 1, (1, 512)),
    "eval_batch_size": Limits(1, 4096, "sequences per GPU and pass of an evaluation", 8),
    "dataloader_num_workers": Limits(0, 256, "processes that make batches, per GPU", 4, (0, 32)),
    "dataloader_prefetch_factor": Limits(1, 1024, "batches that a worker makes ahead", 8, (1, 64)),
    "dataset_num_proc": Limits(1, 1024, "processes that tokenise", 8),
    "dataset_processes": Limits(1, 1024, "processes that tokenise", 8),
    "num_dataset_shards_to_save": _count("files of the tokenised data"),
    "min_sample_len": Limits(0, 1e6, "rows that are shorter are dropped", 2, (0, 8)),
    "pad_to_multiple_of": Limits(1, 4096, "batches are padded to a multiple of it", 64, (1, 512)),
    "sample_packing_bin_size": Limits(
        2, 1e6, "a packed sequence holds no more rows than that", 200, (16, INF)
    ),
    "sample_packing_group_size": _count(
        "so many rows are looked at together to fill sequences", 100_000, (1000, INF)
    ),
    "sequence_len": Limits(16, 1e7, "longer rows are dropped, and most are longer", 512),
    "eval_sequence_len": Limits(16, 1e7, "longer rows are not evaluated", 512),
    "streaming_multipack_buffer_size": _count("rows that are packed together", 10_000),
    "pretrain_multipack_buffer_size": _count("rows that are packed together", 10_000),
    "seed": Limits(0, 2**32 - 1, "numpy and torch take seeds from 0 to 2^32 - 1", 42),
    # Adapters; ranks against the model's matrices are judged by a rule.
    "lora_r": Limits(1, 65536, "an adapter of rank 0 learns nothing", 16, (1, 512)),
    "lora_alpha": Limits(1, 1e6, "the adapter is scaled by alpha / r: by nothing", 32),
    "lora_dropout": Limits(
        0, 0.9, "dropout takes (nearly) all of the adapter's input away", 0.05, (0, 0.3)
    ),
    "lisa_n_layers": _count("layers that learn at a time", 4),
    "lisa_step_interval": _count("steps until other layers learn", 20),
    "neftune_noise_alpha": _positive("noise drowns the embeddings", 5, 100, (0, 30)),
    "noisy_embedding_alpha": _positive("noise drowns the embeddings", 5, 100, (0, 30)),
    # Loss.
    "chunked_cross_entropy_num_chunks": Limits(1, 4096, "the loss is computed in so many parts", 8),
    "eaft_alpha": Limits(0, 10, "the weight of a token's entropy is raised to it", 1.0),
    "eaft_k": Limits(2, 1e6, "entropy is taken over so many tokens", 20),
    "loss_watchdog_threshold": Limits(
        0, 1e6, "a loss above it ends the training, and the first losses are", 10, (3, INF),
        above=True,
    ),
    "loss_watchdog_patience": _count("so many steps in a row", 3),
    "scaling_softmax_factor": _positive("attention's logits are multiplied by it", 0.43, 100),
    # Saving, logging, evaluating.
    "logging_steps": Limits(1, 1e9, "steps between two log lines", 10),
    "save_steps": _positive("steps between two checkpoints, below 1 a share of the run", 0.1, 1e9),
    "saves_per_epoch": Limits(1, 10_000, "checkpoints in one pass over the data", 1, (1, 100)),
    "eval_steps": _positive("steps between two evaluations, below 1 a share of the run", 0.1, 1e9),
    "evals_per_epoch": Limits(1, 10_000, "evaluations in one pass over the data", 1, (1, 100)),
    "gc_collect_steps": Limits(-1, 1e9, "steps between two collections of garbage", 100),
    "gc_steps": Limits(-1, 1e9, "steps between two collections of garbage", 100, (10, INF)),
    "torch_empty_cache_steps": Limits(
        1, 1e9, "steps after which the GPU's cache is thrown away, which costs time", 100, (10, INF)
    ),
    "profiler_steps": _count("steps that are profiled", 5),
    "profiler_steps_start": Limits(0, 1e9, "the first step that is profiled", 0),
    # Machines.
    "fsdp_version": Limits(1, 2, "there are FSDP 1 and 2", 2),
    "dp_shard_size": _count("GPUs that share one copy"),
    "dp_replicate_size": _count("copies of the model"),
    "tensor_parallel_size": _count("GPUs that share a layer"),
    "context_parallel_size": _count("GPUs that share a sequence"),
    "sequence_parallel_degree": _count("GPUs that share a sequence"),
    "heads_k_stride": _count("heads at a time in ring attention"),
    "tiled_mlp_num_shards": _count("parts of a sequence that an MLP computes at a time", 4),
    "ddp_bucket_cap_mb": Limits(1, 65536, "megabytes of gradients that are reduced together", 25),
    "ddp_timeout": Limits(
        60, 604_800, "a collective that waits longer, as for a save, ends the run (seconds)", 1800,
        (300, INF),
    ),
}  # fmt: skip

Condition = Callable[[Plan], bool]


class Need(NamedTuple):
    """What a group of keys needs to have an effect.

    Attributes:
        keys: The keys.
        holds: Whether the plan has it.
        what: What is missing, as the end of "without effect: ...".
        fix: What to set for it to have one.
    """

    keys: tuple[str, ...]
    holds: Condition
    what: str
    fix: str


def _on(key: str) -> Condition:
    return lambda plan: bool(plan.get(key))


def _optimizer(*words: str) -> Condition:
    return lambda plan: any(word in str(plan.get("optimizer") or "") for word in words)


def _scheduler(*names: str) -> Condition:
    return lambda plan: str(plan.get("lr_scheduler") or "cosine") in names


_ADAM = ("adam", "came", "lion", "muon", "dion", "sinkgd", "apollo", "galore", "adopt", "lamb")

NEEDS: tuple[Need, ...] = (
    Need(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_linear", "lora_target_modules",
         "lora_target_parameters", "lora_modules_to_save", "lora_rank_pattern",
         "lora_alpha_pattern", "lora_fan_in_fan_out", "lora_on_cpu", "lora_model_dir",
         "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel",
         "loraplus_lr_ratio", "loraplus_lr_embedding", "peft", "peft_use_dora", "peft_use_rslora",
         "peft_init_lora_weights", "peft_layers_to_transform", "peft_layers_pattern",
         "peft_layer_replication", "peft_trainable_token_indices", "peft_ensure_weight_tying",
         "peft_autocast_adapter_dtype", "qlora_sharded_model_loading", "relora",
         "embeddings_skip_upcast"),
        _on("adapter"), "every weight learns, and there is no adapter",
        "set `method: lora` in the spec",
    ),
    Need(
        ("relora_prune_ratio", "relora_prune_method", "relora_cpu_offload"),
        _on("relora"), "ReLoRA is off", "set relora: true",
    ),
    Need(
        ("jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps"),
        _on("jagged_restart_steps"), "there are no jagged restarts", "set jagged_restart_steps",
    ),
    Need(
        ("dataloader_prefetch_factor",),
        _on("dataloader_num_workers"),
        "there are no workers, and torch refuses it", "set dataloader_num_workers: 4",
    ),
    Need(
        ("gradient_checkpointing_kwargs", "selective_checkpointing"),
        _on("gradient_checkpointing"), "layers are not computed again",
        "set gradient_checkpointing: true",
    ),
    Need(
        ("sample_packing_bin_size", "sample_packing_group_size", "sample_packing_sequentially",
         "sample_packing_mp_start_method", "multipack_real_batches", "eval_sample_packing"),
        _on("sample_packing"), "rows are not packed", "set sample_packing: true",
    ),
    Need(
        ("group_by_length", "batch_flattening"),
        lambda plan: not plan.get("sample_packing"),
        "rows are packed already", "remove it, or set sample_packing: false",
    ),
    Need(
        ("cosine_min_lr_ratio",), _scheduler("cosine", "rex"),
        "the schedule is no cosine", "set lr_scheduler: cosine",
    ),
    Need(
        ("cosine_constant_lr_ratio",),
        lambda plan: _scheduler("cosine")(plan) and bool(plan.get("cosine_min_lr_ratio")),
        "it goes with cosine_min_lr_ratio and the cosine", "set cosine_min_lr_ratio: 0.1",
    ),
    Need(
        ("lr_quadratic_warmup",), _scheduler("cosine"),
        "the schedule is no cosine", "set lr_scheduler: cosine",
    ),
    Need(
        ("lr_div_factor",), _scheduler("one_cycle"),
        "the schedule is not one_cycle", "set lr_scheduler: one_cycle",
    ),
    Need(
        ("warmup_steps",),
        lambda plan: str(plan.get("lr_scheduler")) != "constant",
        "a constant schedule has no warm-up", "set lr_scheduler: constant_with_warmup",
    ),
    Need(
        ("adam_beta1", "adam_beta2", "adam_epsilon"), _optimizer(*_ADAM),
        "the optimizer has no such parameter", "use an Adam",
    ),
    Need(
        ("adam_beta3", "adam_epsilon2"), _optimizer("came"),
        "only CAME has it", "set optimizer: came_pytorch",
    ),
    Need(
        ("dion_lr", "dion_momentum", "dion_rank_fraction", "dion_rank_multiple_of"),
        _optimizer("dion"), "the optimizer is not Dion", "set optimizer: dion",
    ),
    Need(
        ("qgalore_rank", "qgalore_update_proj_gap", "qgalore_scale", "qgalore_proj_type",
         "qgalore_proj_quant", "qgalore_proj_bits", "qgalore_proj_group_size",
         "qgalore_cos_threshold", "qgalore_gamma_proj", "qgalore_queue_size"),
        _optimizer("q_galore"), "the optimizer is not Q-GaLore",
        "set optimizer: q_galore_adamw8bit",
    ),
    Need(
        ("optim_target_modules",), _optimizer("galore", "apollo"),
        "only GaLore and APOLLO choose layers by it", "remove it, or use one of them",
    ),
    Need(
        ("torchdistx_path",), _optimizer("anyprecision"),
        "the optimizer is not adamw_anyprecision", "remove it",
    ),
    Need(
        ("torch_compile_backend", "torch_compile_mode", "torch_compile_options"),
        _on("torch_compile"), "nothing is compiled", "set `torch_compile: true` in the spec",
    ),
    Need(
        ("rl_beta", "dpo_beta", "dpo_label_smoothing", "dpo_loss_type", "dpo_loss_weights",
         "dpo_padding_free", "dpo_use_liger_kernel", "dpo_use_weighting", "kto_desirable_weight",
         "kto_undesirable_weight", "orpo_alpha", "cpo_alpha", "simpo_gamma", "trl", "vllm",
         "precompute_ref_log_probs", "max_prompt_len", "ebft", "center_rewards_coefficient",
         "dpo_generate_during_eval", "dpo_norm_loss", "dpo_use_logits_to_keep", "rpo_alpha"),
        lambda plan: bool(plan.get("rl") or plan.get("reward_model")),
        "this is no training from preferences", "remove it",
    ),
    Need(
        ("lisa_n_layers", "lisa_step_interval", "lisa_layers_attribute"),
        lambda plan: bool(plan.get("lisa_n_layers") and plan.get("lisa_step_interval")),
        "LISA needs lisa_n_layers and lisa_step_interval", "set both",
    ),
    Need(
        ("fsdp_version", "fsdp_final_state_dict_type"), lambda plan: plan.fsdp is not None,
        "FSDP is off", "choose `sharding: fsdp` in the spec",
    ),
    Need(
        ("ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
         "ddp_find_unused_parameters", "ddp"),
        lambda plan: plan.world_size > 1, "one process trains", "remove it",
    ),
    Need(("tiled_mlp_num_shards", "tiled_mlp_use_original_mlp"), _on("tiled_mlp"),
         "MLPs are not tiled", "set tiled_mlp: true"),
    Need(("eaft_alpha", "eaft_k"), _on("use_eaft"), "EAFT is off", "set use_eaft: true"),
    Need(("chunked_cross_entropy_num_chunks",), _on("chunked_cross_entropy"),
         "the loss is not chunked", "set chunked_cross_entropy: true"),
    Need(("pose_split_on_token_ids", "pose_max_context_len", "pose_num_chunks"), _on("use_pose"),
         "PoSE is off", "set use_pose: true"),
    Need(("scaling_softmax_bias", "scaling_softmax_factor"), _on("scaling_softmax"),
         "scaled softmax is off", "set scaling_softmax: true"),
    Need(("fp8_config", "fp8_enable_fsdp_float8_all_gather"), _on("fp8"),
         "FP8 is off", "set fp8: true"),
    Need(("streaming_multipack_buffer_size", "pretrain_multipack_buffer_size"), _on("streaming"),
         "rows are not streamed", "remove it"),
    Need(
        ("heads_k_stride", "ring_attn_func"),
        lambda plan: str(plan.get("context_parallel_size") or 1) not in ("1", "None"),
        "sequences are not split over GPUs", "set context_parallel_size",
    ),
    Need(("loss_watchdog_patience",), _on("loss_watchdog_threshold"),
         "there is no loss_watchdog_threshold", "set it too"),
    Need(("greater_is_better",), _on("metric_for_best_model"),
         "there is no metric_for_best_model", "use the spec's `evaluation`"),
    Need(("hub_strategy", "hub_revision"), _on("hub_model_id"),
         "nothing is pushed while training", "use `multitask push`"),
    Need(("profiler_steps_start",), _on("profiler_steps"), "nothing is profiled", "set it too"),
    Need(("flex_attn_compile_kwargs",),
         lambda plan: str(plan.get("attn_implementation")) == "flex_attention",
         "the attention is another", "set attn_implementation: flex_attention"),
    Need(("bnb_config_kwargs",), _on("load_in_4bit"), "no weights are in 4 bits",
         "set `method: qlora` in the spec"),
    Need(("model_quantization_config_kwargs",), _on("model_quantization_config"),
         "there is no model_quantization_config", "set it too"),
    Need(("include_tokens_per_second",), lambda plan: not plan.get("include_tkps"),
         "include_tkps is on as well", "keep one"),
    Need(("num_generation_samples", "generation_max_new_tokens", "generation_temperature",
          "generation_top_k", "generation_top_p", "generation_do_sample",
          "generation_prompt_ratio"), _on("generate_samples"),
         "no samples are generated", "use `multitask evaluate --generate N`"),
    Need(("image_size", "image_resize_algorithm", "processor_kwargs"), lambda _: False,
         "tasks are text", "remove it"),
    Need(("gemma4_hybrid_attn_impl",),
         lambda plan: plan.model_type is None or "gemma4" in plan.model_type,
         "the model is no Gemma 4", "remove it"),
    Need(("llama4_linearized_experts",),
         lambda plan: plan.model_type is None or "llama4" in plan.model_type,
         "the model is no Llama 4", "remove it"),
    Need(("default_system_message",), lambda plan: plan.get("chat_template") == "chatml",
         "only Axolotl's template chatml takes it", "write it into the tasks' templates"),
    Need(("merge_method",), lambda _: False,
         "it is for `axolotl merge-lora`", "remove it"),
)  # fmt: skip


class Refusal(NamedTuple):
    """Keys that no run of ours can have.

    Attributes:
        keys: The keys; a value that is unset or false is none.
        what: What they would do.
        fix: What to do instead.
    """

    keys: tuple[str, ...]
    what: str
    fix: str = "remove it"


REFUSED: tuple[Refusal, ...] = (
    Refusal(("rl", "reward_model", "process_reward_model", "trainer_cls", "ebft"),
            "it is another kind of training, and the mixture has answers, no preferences"),
    Refusal(("pretraining_dataset", "pretraining_sample_concatenation", "preprocess_iterable",
             "pretrain_multipack_attn"),
            "it is a continued pre-training, on prompts as on answers"),
    Refusal(("relora",),
            "its restarts merge adapters into the base, and the run keeps an adapter alone"),
    Refusal(("streaming",),
            "rows would be neither evaluated nor weighed by task, nor known to have been seen"),
    Refusal(("num_labels",), "it puts a classification head in place of the language model's"),
    Refusal(("reinit_weights",), "the model's weights are thrown away and start at random"),
    Refusal(("shrink_embeddings",), "rows of the embedding are cut off, and the base keeps them"),
    Refusal(("type_of_model", "cls_model_config"),
            "the model's class follows from its config.json; with another one Axolotl trains "
            "nonsense (a T5 as a causal model) or random weights"),
    Refusal(("base_model_config", "tokenizer_config", "tokenizer_type", "processor_type"),
            "the model would be trained with what belongs to another model, and be scored "
            "with its own", "remove it; put the files into one folder and name it as `model`"),
    Refusal(("revision_of_model",),
            "evaluation and merging load the newest revision",
            "download the revision (`hf download --revision`), and name its folder as `model`"),
    Refusal(("tokenizer_use_mistral_common",),
            "scoring reads transformers' tokenizers with a chat template"),
    Refusal(("chat_template_kwargs",),
            "training would render prompts with arguments that scoring and serving do not know",
            "write what they change into a copy of the template, and name it as "
            "chat_template_jinja"),
    Refusal(("total_num_tokens", "total_supervised_tokens", "sample_packing_eff_est"),
            "Axolotl measures it, and computes the number of steps from it: the training would end "
            "early, or its schedule would"),
    Refusal(("dataset_shard_num", "dataset_shard_idx"), "only a part of the rows is trained on"),
    Refusal(("dataset_exact_deduplication",),
            "rows that the mixture repeats on purpose are dropped, and with them its weights",
            "remove it; the leakage gate and `mixture` decide what is repeated"),
    Refusal(("skip_prepare_dataset",), "rows would not be tokenised"),
    Refusal(("push_dataset_to_hub",), "it uploads the rows of every task"),
    Refusal(("world_size", "local_rank", "device", "is_preprocess", "axolotl_config_path"),
            "the launcher sets it"),
    Refusal(("device_map", "max_memory", "gpu_memory_limit"),
            "layers would be spread over GPUs that each train a copy, or over main memory",
            "choose `sharding` or `cpu_offload` in the spec"),
    Refusal(("use_ray", "ray_num_workers", "ray_run_name", "resources_per_worker"),
            "the run's launch scripts start the processes, not Ray"),
    Refusal(("auto_find_batch_size",),
            "the batch, and with it steps and schedule, would be others than the plan says"),
    Refusal(("merge_lora",), "it makes Axolotl load the model for merging, not for training",
            "use `multitask push --merged`"),
    Refusal(("early_stopping_patience",),
            "it follows Axolotl's loss over all tasks together",
            "use `evaluation: {early_stopping: {patience: 3}}` in the spec"),
    Refusal(("do_bench_eval", "bench_dataset", "bench_split", "do_causal_lm_eval",
             "eval_causal_lm_metrics"),
            "it evaluates merged rows, and the run evaluates each task at every save",
            "remove it; see `evaluation` in the spec"),
    Refusal(("gptq",), "Axolotl's GPTQ cannot be imported as installed", "use `method: qlora`"),
    Refusal(("qat", "quantization"), "it is for models that are quantised after training"),
    Refusal(("use_onebitllms",), "weights would be rounded to three values"),
    Refusal(("flash_attn_fuse_mlp", "flash_optimum"), "Axolotl no longer has it"),
    Refusal(("use_pose",), "positions are skipped, which short answers do not need"),
)  # fmt: skip

# Keys whose every value is fine, or of another tool's business (tracking, serving, uploads).
HARMLESS = frozenset(
    (
        "accelerator_config", "activation_offloading", "added_tokens_overrides",
        "chunked_cross_entropy", "comet_api_key", "comet_experiment_config",
        "comet_experiment_key", "comet_mode", "comet_online", "comet_project_name",
        "comet_workspace", "curriculum_sampling", "dataloader_drop_last",
        "dataloader_pin_memory", "dataset_keep_in_memory", "dataset_prepared_path",
        "deepcompile", "dynamic_checkpoint",
        "experimental_skip_move_to_device", "experts_implementation", "fix_untrained_tokens",
        "flash_attn_cross_entropy", "flash_attn_d512", "fp32_norm_classes", "fp32_norms", "fp8",
        "freeze_mm_modules", "fused_attn_kernel", "generate_samples", "gradio_max_new_tokens",
        "gradio_server_name", "gradio_server_port", "gradio_share", "gradio_temperature",
        "gradio_title", "hf_mlflow_log_artifacts", "hf_use_auth_token", "hub_model_id",
        "include_tkps", "large_head_attention", "layer_offloading", "low_cpu_mem_usage",
        "mean_resizing_embeddings", "mlflow_experiment_name", "mlflow_run_name",
        "mlflow_tracking_uri", "otel_metrics_host", "otel_metrics_port", "pad_to_sequence_len",
        "ple_cpu_offload", "quantize_moe_experts", "remove_unused_columns", "role_boundaries",
        "save_first_step", "scaling_softmax", "scaling_softmax_bias", "sdpa_varlen",
        "shuffle_before_merging_datasets", "shuffle_merged_datasets", "strict", "tf32",
        "tiled_mlp", "tokenizer_legacy", "tokenizer_save_jinja_files", "torch_compile",
        "trackio_project_name", "trackio_run_name", "trackio_space_id", "use_comet", "use_eaft",
        "use_kernels", "use_mlflow", "use_otel_metrics", "use_tensorboard", "use_trackio",
        "use_wandb", "wandb_entity", "wandb_log_model", "wandb_mode", "wandb_name",
        "wandb_project", "wandb_run_id", "wandb_watch",
    )
)  # fmt: skip

# Keys that a rule looks at: of this package's modules of checks, or of the schema's.
RULED = frozenset(
    (
        "adapter", "attn_implementation", "auto_resume_from_checkpoints", "base_model",
        "batch_size", "bf16", "bfloat16", "chat_template", "chat_template_jinja", "datasets",
        "deepspeed", "eager_attention", "eot_tokens", "eval_max_new_tokens", "eval_strategy",
        "eval_table_size", "evaluation_strategy", "excess_length_strategy", "flash_attention",
        "flash_attn_rms_norm", "flex_attention", "float16", "float32", "fp16", "fsdp",
        "fsdp_config", "gradient_checkpointing", "is_falcon_derived_model",
        "is_llama_derived_model", "is_mistral_derived_model", "is_qwen_derived_model",
        "learning_rate", "load_best_model_at_end", "load_in_4bit", "load_in_8bit", "lr_groups",
        "lr_scheduler", "lr_scheduler_kwargs", "max_packed_sequence_len",
        "metric_for_best_model", "model_quantization_config", "optim_args", "optimizer",
        "output_dir", "overrides_of_model_config", "overrides_of_model_kwargs", "plugins",
        "resize_token_embeddings_to_32x", "resume_from_checkpoint", "rope_scaling",
        "s2_attention", "sage_attention", "sample_packing", "save_only_model",
        "save_safetensors", "save_strategy", "save_total_limit", "sdp_attention",
        "special_tokens", "streaming", "test_datasets", "tokenizer_use_fast", "tokens",
        "train_on_inputs", "trust_remote_code", "unfrozen_parameters", "val_set_size",
        "xformers_attention",
    )
)  # fmt: skip


def numbers(config: Mapping[str, Any], path: str = "") -> list[tuple[str, float]]:
    """Every number of a configuration with its place, those in sections and in quotes too."""
    found: list[tuple[str, float]] = []
    items: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        if isinstance(value, Mapping | list):
            found += numbers(value, where)  # type: ignore[arg-type]
        else:
            number = number_of(value)
            if number is not None:
                found.append((where, number))
    return found
