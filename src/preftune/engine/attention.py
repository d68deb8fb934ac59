"""Attention over a row of pairs, by transformers' own door for it: no code of a model is patched.

`preftune` is registered beside `sdpa`. Without a layout it is `sdpa`; with one it computes, pair by pair, the blocks
that the layout allows, so that its cost is that of the pairs and not of the row. A mask of four dimensions, or for
`flex_attention` its block mask, says the same to what computes the whole row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preftune.engine.layout import Layout, allowed

NAME = "preftune"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    pair_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `sdpa` does, or over a row of pairs.

    Args:
        module: The attention layer.
        query: Of shape `(1, heads, N, D)`.
        key: Of shape `(1, key-value heads, N, D)`.
        value: Of the shape of `key`.
        attention_mask: As `sdpa` takes it; not read where there is a layout.
        pair_layout: The row of pairs.
        **kwargs: As transformers gives them.

    Returns:
        Of shape `(1, N, heads, D)`, and nothing else.
    """
    if pair_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return _by_pair(module, query, key, value, pair_layout, kwargs), None


def _by_pair(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, kwargs: dict[str, Any]
) -> Tensor:
    """Attend within each pair: its trunk with the chosen branch is causal as it stands, the rejected one has a mask."""
    sizes = [size for each in layout.branches for size in each.sizes]
    queries, keys, values = (torch.split(states, sizes, dim=2) for states in (query, key, value))
    found = []
    for pair, each in enumerate(layout.branches):
        first, second = 2 * pair, 2 * pair + 1
        own = dict(kwargs, is_causal=True)
        found.append(sdpa_attention_forward(module, queries[first], keys[first], values[first], None, **own)[0])
        if not each.rejected:
            continue
        seen_keys, seen_values = (torch.cat([s[first][:, :, : each.trunk], s[second]], dim=2) for s in (keys, values))
        mask = torch.ones(each.rejected, each.trunk + each.rejected, dtype=torch.bool, device=query.device)
        mask = mask.tril(each.trunk)[None, None]
        own = dict(kwargs, is_causal=False)
        found.append(sdpa_attention_forward(module, queries[second], seen_keys, seen_values, mask, **own)[0])
    return torch.cat(found, dim=1)


def block_mask(layout: Layout) -> BlockMask:
    """Return the layout as the block mask of FlexAttention."""
    mask = allowed(layout)[0, 0]
    size = len(mask)
    return create_block_mask(lambda b, h, q, k: mask[q, k], None, None, size, size, device=str(mask.device))


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
