"""The keys of `trl.DPOConfig` as preftune treats them: what passes through and its range, what is owned.

A test holds that `PASSED` and `OWNED` together name every field of the installed version.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

# What passes through, with the range where the source names none; None: what the source annotates.
PASSED: dict[str, Any] = {
    "activation_offloading": bool,
    "adam_beta1": Decay,
    "adam_beta2": Decay,
    "adam_epsilon": Annotated[float, Field(gt=0)],
    "bf16": bool,  # the source admits null, which TRL turns into true
    "bf16_full_eval": None,
    "dataloader_num_workers": Annotated[int, Field(ge=0)],
    "dataloader_persistent_workers": None,
    "dataloader_pin_memory": None,
    "dataloader_prefetch_factor": Count | None,
    "disable_dropout": None,
    "eval_delay": NotNegative,
    "eval_steps": Count | Share | None,
    "eval_strategy": None,
    "fp16": None,
    "fp16_full_eval": None,
    "gradient_checkpointing": bool | Literal["auto"],  # auto is ours; training/memory.py settles it
    "gradient_checkpointing_kwargs": dict[str, Any] | None,
    "learning_rate": NotNegative,
    "logging_first_step": None,
    "logging_steps": Count | Share,
    "lr_scheduler_kwargs": dict[str, Any] | None,
    "lr_scheduler_type": None,
    "max_grad_norm": NotNegative,
    "max_length": Annotated[int, Field(ge=2)] | None,
    "max_steps": Literal[-1] | Count,
    "num_train_epochs": Annotated[float, Field(gt=0)],
    "optim": None,
    "optim_args": None,
    "optim_target_modules": None,
    "pad_to_multiple_of": Count | Literal["auto"] | None,
    "per_device_eval_batch_size": Count,
    "per_device_train_batch_size": Count,
    "save_steps": Count | Share,
    "save_total_limit": Annotated[int, Field(ge=2)] | None,  # one alone would be lost where it turns out torn
    "tf32": None,
    "torch_compile": None,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "torch_empty_cache_steps": Count | None,
    "train_sampling_strategy": Literal["random", "sequential"],  # the others read a column DPO has not
    "warmup_steps": Count | Decay,
    "weight_decay": NotNegative,
}

_ONE_PROCESS = "a run is one process on one device for now"
_CHECKPOINTS_SEALED = "preftune seals checkpoints and goes on from them itself; set train.save_steps"
_ALWAYS_MEASURED = "evaluation always measures loss and rewards, and keeps no logits"
_NO_HUB = "preftune uploads nothing; upload what run.dir holds"
_OWN_LINES = "preftune writes its own lines and bars"
_LOSS_NOT_OFFERED = "this loss is not offered yet; see the files in conf/loss"
_REFERENCE_DECIDED = "preftune decides when the reference is computed"
_REFERENCE_FIXED = "the reference stays fixed; set reference"
_TRAINING_DECIDED = "a run always trains and evaluates; dry_run=true only prepares"
_NO_OVERFLOW = "non-finite numbers always stop the run"


def _each(names: str, remedy: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), remedy)


# What preftune sets itself, with what a person sets in its place.
OWNED: dict[str, str] = {
    "output_dir": "set run.dir",
    "run_name": "set run.dir, whose last part names the run",
    "project": "set track.project",
    **_each("report_to trackio_space_id trackio_bucket_id trackio_static_space_id", "choose track"),
    "loss_type": "choose loss",
    "beta": "set loss.beta",
    **_each("label_smoothing label_smoothing_factor", "set loss.label_smoothing"),
    "discopop_tau": "choose loss=discopop and set loss.tau",
    **_each(
        "loss_weights ld_alpha f_divergence_type f_alpha_divergence_coef use_weighting router_aux_loss_coef",
        _LOSS_NOT_OFFERED,
    ),
    "seed": "set seed",
    "full_determinism": "set deterministic",
    "data_seed": "set seed, or data.split_seed for what is held out",
    "gradient_accumulation_steps": "set train.global_batch_size, from which accumulation follows",
    "auto_find_batch_size": "set train.per_device_train_batch_size; a batch size never changes unasked",
    "average_tokens_across_devices": "a preference loss counts pairs, not tokens",
    **_each("precompute_ref_log_probs precompute_ref_batch_size", _REFERENCE_DECIDED),
    **_each("sync_ref_model ref_model_mixup_alpha ref_model_sync_steps", _REFERENCE_FIXED),
    "padding_free": "this TRL warns and does nothing",
    "truncation_mode": "answers are cut at their end; set train.max_length",
    "dataset_num_proc": "preftune turns pairs into tokens itself, in one process",
    "model_init_kwargs": "set model.dtype, model.attention, model.revision and the like",
    "trust_remote_code": "code that comes with a model is not run",
    "pad_token": "set model.pad_token",
    "use_cache": "training keeps no key-value cache",
    **_each("use_liger_kernel liger_kernel_config", "preftune does not check these kernels yet"),
    "neftune_noise_alpha": "noise would part the policy from its reference before the first step",
    **_each(
        "activation_checkpointing activation_checkpointing_kwargs",
        "set train.gradient_checkpointing and train.gradient_checkpointing_kwargs",
    ),
    "logging_nan_inf_filter": _NO_OVERFLOW,
    "debug": _NO_OVERFLOW,
    "logging_strategy": "set train.logging_steps",
    "include_num_input_tokens_seen": "num_tokens is always logged",
    "skip_memory_metrics": "summary.json always holds peak_memory_bytes",
    **_each("log_level log_level_replica log_on_each_node disable_tqdm", _OWN_LINES),
    "eval_on_start": "a run is always evaluated at start and end",
    **_each(
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics",
        _ALWAYS_MEASURED,
    ),
    **_each(
        "save_only_model save_strategy save_on_each_node enable_jit_checkpoint "
        "load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip "
        "restore_callback_states_from_checkpoint resume_from_checkpoint",
        _CHECKPOINTS_SEALED,
    ),
    **_each(
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
        _NO_HUB,
    ),
    "use_cpu": "set CUDA_VISIBLE_DEVICES= in the environment to train without a GPU",
    **_each(
        "accelerator_config parallelism_config ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config "
        "deepspeed local_rank",
        _ONE_PROCESS,
    ),
    "dataloader_drop_last": "every pair is trained on",
    "dataloader_in_order": "pairs keep their order, so that a run can be repeated",
    "dataloader_multiprocessing_context": "preftune decides how workers start",
    **_each("remove_unused_columns label_names length_column_name", "preftune decides what a row holds"),
    **_each("do_train do_eval do_predict", _TRAINING_DECIDED),
}

# What recipes written for other versions and other tools still say.
REPLACED: dict[str, str] = {
    **_each(
        "max_prompt_length max_completion_length max_target_length",
        "set train.max_length, which bounds prompt and answer together",
    ),
    "warmup_ratio": "set train.warmup_steps, which below 1 is a share of all steps",
    "evaluation_strategy": "set train.eval_strategy",
    "rpo_alpha": _LOSS_NOT_OFFERED,
    "reference_free": "DPO has a reference; set reference",
    **_each("force_use_ref_model ref_model_init_kwargs ref_adapter_name model_adapter_name", "set reference"),
    "generate_during_eval": "set evaluate.prompts",
    **_each("tokenizer processing_class", "the tokenizer comes with the model; set model.path or model.id"),
    **_each("label_pad_token_id padding_value", "set model.pad_token"),
    **_each("torch_dtype dtype", "set model.dtype"),
    **_each("load_in_4bit load_in_8bit", "set model.quantization to nf4 or int8"),
    **_each("peft_config use_peft", "choose adapter"),
    **_each("lora_r lora_alpha lora_dropout", "set adapter.r, adapter.alpha and adapter.dropout"),
    "no_cuda": "set CUDA_VISIBLE_DEVICES= in the environment to train without a GPU",
    "overwrite_output_dir": "set run.dir",
    "logging_dir": "set run.dir",
    "group_by_length": "set train.train_sampling_strategy to random or sequential",
    "lr": "set train.learning_rate",
    "epochs": "set train.num_train_epochs",
    "batch_size": "set train.global_batch_size and train.per_device_train_batch_size",
}
