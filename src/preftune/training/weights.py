"""What trains, on the disk: an adapter as PEFT writes it, or every weight of a model by its name."""

from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from preftune.refusals import RunFailed

_ADAPTER, _MODEL = "adapter_model.safetensors", "model.safetensors"


def write_weights(policy: PreTrainedModel | PeftModel, directory: Path) -> None:
    """Write what trains, in the type that it has; an adapter there can be given as `adapter.path`."""
    if isinstance(policy, PeftModel):
        policy.save_pretrained(str(directory), selected_adapters=["default"])
        return
    policy.config.save_pretrained(str(directory))
    # not save_pretrained: for some architectures it writes other names than those that load_state_dict takes
    save_file({name: p.detach().contiguous() for name, p in policy.named_parameters()}, directory / _MODEL)


def read_weights(policy: PreTrainedModel | PeftModel, directory: Path) -> None:
    """Put back what `write_weights` wrote, into the parameters as they are: they keep their type.

    PEFT's own `load_adapter`, which the stock trainer calls, makes them float32.

    Raises:
        RunFailed: Something that trains is not there, or more is.
    """
    found: Any
    if isinstance(policy, PeftModel):
        found = set_peft_model_state_dict(policy, load_file(directory / _ADAPTER), "default")
    else:
        found = policy.load_state_dict(load_file(directory / _MODEL), strict=False)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    strangers = sorted(trained & set(found.missing_keys)) + sorted(found.unexpected_keys)
    if strangers:
        raise RunFailed(
            f"{directory} must hold exactly what trains, got a difference in {', '.join(strangers[:3])}; remove it, "
            "and the run goes on from an earlier one"
        )
