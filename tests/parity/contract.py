"""What preftune leans on in TRL, transformers and peft, written down as text; `trl_contract.txt` is how it stood.

Write the file anew by `python -m tests.parity.contract`.
"""

import ast
import difflib
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils
from trl.trainer.dpo_trainer import DataCollatorForPreference

FILE = Path(__file__).parent / "trl_contract.txt"
WHAT_TO_DO = (
    "TRL, transformers or peft no longer is what preftune leans on. Look at what the change does to "
    "src/preftune/training and mend it there; then write the file anew: python -m tests.parity.contract"
)
# Called or overridden by us.
_SIGNATURES: dict[str, Callable[..., Any]] = {
    "DPOTrainer.__init__": DPOTrainer.__init__,
    "DPOTrainer._prepare_dataset": DPOTrainer._prepare_dataset,
    "DPOTrainer.compute_loss": DPOTrainer.compute_loss,
    "DPOTrainer.compute_ref_log_probs": DPOTrainer.compute_ref_log_probs,
    "DPOTrainer.evaluate": DPOTrainer.evaluate,
    "DPOTrainer.log": DPOTrainer.log,
    "DPOTrainer.training_step": DPOTrainer.training_step,
    "Trainer.add_callback": Trainer.add_callback,
    "Trainer.get_batch_samples": Trainer.get_batch_samples,
    "Trainer.prediction_step": Trainer.prediction_step,
    "Trainer.remove_callback": Trainer.remove_callback,
    "Trainer.train": Trainer.train,
    "Trainer.training_step": Trainer.training_step,
    "Trainer._prepare_inputs": Trainer._prepare_inputs,
    "PeftModel.add_adapter": PeftModel.add_adapter,
    "PeftModel.delete_adapter": PeftModel.delete_adapter,
    "PeftModel.disable_adapter": PeftModel.disable_adapter,
    "PeftModel.set_adapter": PeftModel.set_adapter,
    "add_fused_lm_head": utils.add_fused_lm_head,
    "use_adapter": utils.use_adapter,
}
# Whose lines we replay, mirror or count on.
_BODIES: dict[str, Callable[..., Any]] = {
    "DPOTrainer.compute_loss": DPOTrainer.compute_loss,
    "DPOTrainer._compute_loss": DPOTrainer._compute_loss,
    "DPOTrainer.compute_ref_log_probs": DPOTrainer.compute_ref_log_probs,
    "DPOTrainer.log": DPOTrainer.log,
    "DPOTrainer.training_step": DPOTrainer.training_step,
    "DataCollatorForPreference.torch_call": DataCollatorForPreference.torch_call,
    "Trainer.get_batch_samples": Trainer.get_batch_samples,
    "Trainer.training_step": Trainer.training_step,
    "add_fused_lm_head": utils.add_fused_lm_head,
    "use_adapter": utils.use_adapter,
}
# Read or set by us on a trainer.
_ATTRIBUTES = (
    *("accelerator", "args", "beta", "current_gradient_accumulation_steps", "f_alpha_divergence_coef"),
    *("f_divergence_type", "label_smoothing", "ld_alpha", "loss_types", "loss_weights", "precompute_ref_logps"),
    *("ref_model", "use_weighting", "_metrics", "_total_train_tokens"),
)


def contract() -> str:
    """Return the text for what is installed."""
    sections = {
        "fields of DPOConfig": _fields(DPOConfig),
        "fields of DataCollatorForPreference": _fields(DataCollatorForPreference),
        "fields of FusedCausalLMOutput": _fields(utils.FusedCausalLMOutput),
        "signatures": [_signature(name, function) for name, function in _SIGNATURES.items()],
        "where a trainer's attributes come from": sorted(_assignments(DPOTrainer) | _assignments(Trainer)),
        "what the stock loss reads": _reads(DPOTrainer._compute_loss),
        "what the stock reference reads": _reads(DPOTrainer.compute_ref_log_probs),
        "losses and divergences that the stock loss knows": _choices(DPOTrainer._compute_loss),
        "bodies, as a hash of their code without comments": [_body(*item) for item in _BODIES.items()],
    }
    blocks = (f"[{title}]\n" + "".join(f"{line}\n" for line in lines) for title, lines in sections.items())
    return "\n".join(blocks)


def difference(before: str, now: str) -> str:
    """Return what a person reads where the contract no longer holds; nothing where it does."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), FILE.name, "installed", n=1, lineterm="")
    found = "\n".join(lines)
    return f"{found}\n\n{WHAT_TO_DO}" if found else ""


def _fields(record: type) -> list[str]:
    return sorted(f"{each.name} = {_default(each)}" for each in fields(record))


def _default(each: Field[Any]) -> str:
    if each.default_factory is not MISSING:
        return f"{each.default_factory.__name__}()"
    return "required" if each.default is MISSING else repr(getattr(each.default, "value", each.default))


def _signature(name: str, function: Callable[..., Any]) -> str:
    given = inspect.signature(function)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in given.parameters.values()]
    return f"{name}{given.replace(parameters=bare, return_annotation=inspect.Signature.empty)}"


def _tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _assignments(trainer: type) -> set[str]:
    found = set()
    for node in ast.walk(_tree(trainer)):
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target).removeprefix("self.") for target in node.targets]
            if names[0] in _ATTRIBUTES and isinstance(node.targets[0], ast.Attribute):
                found.add(f"{trainer.__name__}: {ast.unparse(node)}")
    return found


def _reads(function: Callable[..., Any]) -> list[str]:
    return sorted({ast.unparse(node) for node in ast.walk(_tree(function)) if _is_read(node)})


def _is_read(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=owner):
            return ast.unparse(owner) in ("self", "self.args", "outputs", "ref_outputs")
        case ast.Subscript(value=owner):
            return ast.unparse(owner) == "inputs"
        case ast.Call(keywords=given):
            return any(each.arg == "fused_lm_head" for each in given)
    return False


def _choices(function: Callable[..., Any]) -> list[str]:
    return sorted(_compared(_tree(function)))


def _compared(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and ast.unparse(node.left) in ("loss_type", "self.f_divergence_type"):
            yield ast.unparse(node)


def _body(name: str, function: Callable[..., Any]) -> str:
    lines = (line.strip() for line in inspect.getsource(function).splitlines())
    code = "\n".join(line for line in lines if line and not line.startswith("#"))
    return f"{name}: {hashlib.sha256(code.encode()).hexdigest()[:12]}"


if __name__ == "__main__":
    FILE.write_text(contract(), encoding="utf-8")
