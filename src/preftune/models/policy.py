"""The policy: base weights, quantised or not, with the adapter that trains."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, set_seed

from preftune.models.finite import refuse_bad_weights, weight_files
from preftune.models.settings import FullSettings, LowRankSettings, ModelSettings
from preftune.models.source import ModelSource, reachable
from preftune.refusals import Refusal
from preftune.seals import to_disk


@dataclass(frozen=True, slots=True)
class Census:
    """What a policy is made of, for the plan."""

    parameters: int
    trainable: int
    trainable_dtypes: list[str]
    quantized_layers: int

    def describe(self) -> str:
        """Return one line: trained of all parameters, their type, quantised layers."""
        dtypes = ", ".join(self.trainable_dtypes)
        quantized = f"; {self.quantized_layers} quantised layers" if self.quantized_layers else ""
        return f"{self.trainable:,} of {self.parameters:,} parameters ({dtypes}){quantized}"


def load_policy(
    model: ModelSettings, adapter: LowRankSettings | FullSettings, source: ModelSource, *, seed: int
) -> PreTrainedModel | PeftModel:
    """Load the base weights and attach what trains.

    Raises:
        Refusal: The model cannot be loaded, `quantization` finds no layer to quantise, an adapter is put on the
            LM head, no module matches the adapter's targets, or a weight is NaN or infinite.
    """
    base = _load_base(model, source)
    refuse_bad_weights(base, "model", source.location, weight_files(source))
    if model.quantization and not _quantized_layers(base):
        raise Refusal(
            f"model.quantization={model.quantization} must find linear layers to quantise in {source.location}, "
            "found none; set model.quantization=null"
        )
    if isinstance(adapter, FullSettings):
        return base
    return _attach(base, model, adapter, seed)


def count_parameters(policy: torch.nn.Module) -> Census:
    """Count what `policy` holds; a 4-bit weight counts as the parameters it stands for."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    return Census(
        parameters=sum(_size(p) for p in policy.parameters()),
        trainable=sum(p.numel() for p in trained),
        trainable_dtypes=sorted({str(p.dtype).removeprefix("torch.") for p in trained}),
        quantized_layers=_quantized_layers(policy),
    )


def save_policy(policy: PreTrainedModel | PeftModel, tokenizer: Any, directory: Path) -> Path:
    """Write adapter or model, with the tokenizer beside it, whole or not at all; return where."""
    target = directory / ("adapter" if isinstance(policy, PeftModel) else "model")
    partial, old = (target.with_name(f".{target.name}.{each}") for each in ("partial", "old"))
    for leftover in (partial, old):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        if isinstance(policy, PeftModel):
            policy.save_pretrained(str(partial), selected_adapters=["default"])
        else:
            policy.save_pretrained(str(partial))
        tokenizer.save_pretrained(str(partial))
        for path in (*partial.iterdir(), partial):
            to_disk(path)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _load_base(model: ModelSettings, source: ModelSource) -> PreTrainedModel:
    dtype = getattr(torch, model.dtype)
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": model.attention,
        "device_map": {"": _device()},
        "quantization_config": _quantization(model.quantization, dtype),
        "trust_remote_code": False,  # left out, transformers asks at the terminal
        "weights_only": True,
    }
    with reachable(source, "weights"):
        base = AutoModelForCausalLM.from_pretrained(source.location, revision=source.revision, **arguments)
    base.config.use_cache = False
    for module in base.modules():
        # bitsandbytes 0.50 repacks a 4-bit layer for inference at its first evaluation on a CPU with AVX512-BF16,
        # and the packed layer passes no gradient to its input: training after an evaluation would go wrong unseen.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - the class is untyped
    return base


def _device() -> str | int:
    """One process drives one device: the launcher's local rank, else the first GPU, else the CPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.is_available() else "cpu"


def _quantization(name: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if name is None:
        return None
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _attach(base: PreTrainedModel, model: ModelSettings, adapter: LowRankSettings, seed: int) -> PeftModel:
    if adapter.path is not None:
        policy = _earlier(base, Path(adapter.path).expanduser())
        files = sorted(Path(adapter.path).expanduser().glob("adapter_model.safetensors"))
        refuse_bad_weights(policy, "adapter.path", adapter.path, files)
    else:
        set_seed(seed)
        policy = _fresh(base, model, adapter)
    dtype = getattr(torch, adapter.dtype)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return policy


def _earlier(base: PreTrainedModel, directory: Path) -> PeftModel:
    file = directory / "adapter_config.json"
    if not file.is_file():
        raise Refusal(f"adapter.path must be a directory that holds adapter_config.json, got {directory}")
    with reachable(ModelSource(str(directory), None), "adapter"):
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict) or config.get("megatron_config"):  # peft would import the module that it names
            raise ValueError(
                "its adapter_config.json must be of an adapter for transformers, and name no Megatron core"
            )
        return PeftModel.from_pretrained(base, str(directory), is_trainable=True)


def _fresh(base: PreTrainedModel, model: ModelSettings, adapter: LowRankSettings) -> PeftModel:
    if model.target_modules != "all-linear" and "lm_head" in model.target_modules:
        raise Refusal(
            "model.target_modules must not name lm_head: the log-probabilities are computed from its weight "
            "directly, so an adapter there would never train; add it to adapter.modules_to_save"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.name == "dora",
        target_modules=model.target_modules,
        modules_to_save=adapter.modules_to_save or None,
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise Refusal(f"model.target_modules must name modules of this model: {error}") from error


def _quantized_layers(policy: torch.nn.Module) -> int:
    return sum(type(parameter).__name__ in ("Params4bit", "Int8Params") for parameter in policy.parameters())


def _size(parameter: torch.nn.Parameter) -> int:
    quant_state = getattr(parameter, "quant_state", None)
    return quant_state.shape.numel() if quant_state is not None else parameter.numel()
