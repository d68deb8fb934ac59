"""Which models the shared pass takes, by name of what it does not."""

from typing import Any

from preftune.engine.shared import causal_model

# Kinds of layers whose tokens see no more of the row than a mask lets them; the last four have no attention.
_MASKED = {"full_attention", "sliding_attention", "chunked_attention", "moe", "mlp", "sparse", "dense"}


def unsupported(model: Any, longest: int | None) -> str | None:
    """Return why the shared pass does not take `model`, None where nothing is known against it.

    Args:
        model: The policy, with or without an adapter.
        longest: Tokens of the longest prompt and answer together; None for no limit.
    """
    config = causal_model(model).config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if text is not config or hasattr(config, "vision_config"):
        return "the model takes more than text"
    if not kinds <= _MASKED or not hasattr(text, "num_attention_heads"):
        return f"the model has layers of {', '.join(sorted(kinds)) or 'another kind'}, which mix tokens along the row"
    if (window := _window(text, kinds)) is not None and (longest is None or window < longest):
        return f"the model attends {window} tokens back, and a sequence may have {longest or 'any number of'} tokens"
    if getattr(text, "output_router_logits", False):
        return "the model has experts whose load is part of the loss"
    if text._attn_implementation not in ("sdpa", "eager", "flex_attention", "preftune"):
        return f"model.attention={text._attn_implementation} knows no layout of pairs; sdpa does"
    return None


def _window(text: Any, kinds: set[str]) -> int | None:
    """Return how far back the shortest attention reaches; None where all of it reaches to the start."""
    window = getattr(text, "sliding_window", None)
    if getattr(text, "use_sliding_window", True) is False or (kinds and "sliding_attention" not in kinds):
        window = None
    chunk = getattr(text, "attention_chunk_size", None) if "chunked_attention" in kinds else None
    return min((int(reach) for reach in (window, chunk) if reach is not None), default=None)
