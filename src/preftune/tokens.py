"""Pairs to token ids: each dialogue is rendered once by the chat template, and what comes out is checked.

1. The prompt is rendered with the opening of the assistant's turn; prompt and answer are rendered together.
2. The prompt's ids must be a true prefix of both, so that the model trains on the context it meets in use.
3. Where the tokenizer begins a text with BOS, the dialogue must begin with exactly one.
4. Each answer must end in the end-of-turn token; white space of the template may follow it.
5. A pair longer than `max_length` is dropped, cut or refused, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from rich.progress import track

from preftune.data.loading import PreparedPairs
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import Message, PreferencePair
from preftune.refusals import Refusal

_LONG = 5000  # pairs from which the stage is long enough to show a bar
Overlong = Literal["drop", "cut", "stop"]


class TokenRow(TypedDict):
    """One pair as ids, by the names that TRL's collator reads; `row` is its place among the pairs."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    row: int


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Pairs as ids, and what became of those that were too long.

    Attributes:
        rows: In the order of the pairs.
        origins: Where each pair came from, by its place.
        dropped: Pairs left out, by reason.
        truncated: Pairs of which an answer lost its end.
    """

    rows: list[TokenRow]
    origins: list[str]
    dropped: dict[str, int]
    truncated: int


def tokenize(
    pairs: Sequence[PreferencePair], chat: ChatTokenizer, *, max_length: int | None, overlong: Overlong
) -> TokenizedPairs:
    """Render and tokenise `pairs`.

    Args:
        pairs: Valid pairs.
        chat: Tokenizer with its chat template.
        max_length: Longest prompt and answer together, in tokens; None for no limit.
        overlong: What becomes of a longer pair: `drop` it, `cut` the end of its answers, or `stop`.

    Raises:
        Refusal: The template breaks one of the rules above, or a pair is too long under `stop`.
    """
    rows: list[TokenRow] = []
    dropped: dict[str, int] = {}
    truncated = 0
    watched = track(pairs, "tokenising", transient=True, disable=len(pairs) < _LONG)
    for place, pair in enumerate(watched):
        prompt, chosen, rejected = _encode(pair, chat)
        if max_length is not None and len(prompt) + max(len(chosen), len(rejected)) > max_length:
            verdict = _shorten(pair, prompt, chosen, rejected, max_length, overlong)
            if isinstance(verdict, str):
                dropped[verdict] = dropped.get(verdict, 0) + 1
                continue
            chosen, rejected = verdict
            truncated += 1
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "row": place})
    return TokenizedPairs(rows, [pair.origin for pair in pairs], dropped, truncated)


def prompt_ids(prompt: Sequence[Message], chat: ChatTokenizer) -> list[int]:
    """Return the ids of `prompt` with the assistant's turn opened, as generation starts from them."""
    return _render(list(prompt), chat, add_generation_prompt=True)


def _encode(pair: PreferencePair, chat: ChatTokenizer) -> tuple[list[int], list[int], list[int]]:
    prompt = prompt_ids(pair.prompt, chat)
    _check_bos(prompt, chat)
    chosen = _answer_ids(pair, pair.chosen, prompt, chat)
    rejected = _answer_ids(pair, pair.rejected, prompt, chat)
    return prompt, chosen, rejected


def _answer_ids(pair: PreferencePair, answer: str, prompt: list[int], chat: ChatTokenizer) -> list[int]:
    turns: list[Message] = [*pair.prompt, {"role": "assistant", "content": answer}]
    ids = _render(turns, chat, add_generation_prompt=False)
    if ids[: len(prompt)] != prompt:
        raise Refusal(
            f"{pair.origin}: the prompt's tokens must be a prefix of prompt and answer under this chat template, "
            "but the template renders the prompt alone differently; set model.chat_template to one that does not"
        )
    _check_end(pair, ids[len(prompt) :], chat)
    return ids[len(prompt) :]


def _render(turns: list[Message], chat: ChatTokenizer, *, add_generation_prompt: bool) -> list[int]:
    import jinja2

    messages: list[dict[str, Any]] = [dict(turn) for turn in turns]
    try:
        encoded = chat.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise Refusal(f"the chat template must render the turns {roles}, got {error}") from error
    return list(encoded["input_ids"])  # type: ignore[index, arg-type, call-overload]


def _check_bos(ids: list[int], chat: ChatTokenizer) -> None:
    bos = chat.tokenizer.bos_token_id
    if bos is None or chat.tokenizer("a")["input_ids"][:1] != [bos]:
        return
    leading = next((place for place, token in enumerate(ids) if token != bos), len(ids))
    if leading != 1:
        raise Refusal(
            f"a dialogue must begin with exactly one {chat.tokenizer.bos_token}, got {leading}; the chat template "
            "and the tokenizer disagree: set model.chat_template to one that writes it once"
        )


def _check_end(pair: PreferencePair, answer: list[int], chat: ChatTokenizer) -> None:
    end = chat.tokenizer.convert_tokens_to_ids(chat.end_of_turn)
    after = answer[len(answer) - answer[::-1].index(end) :] if end in answer else answer
    if end not in answer or str(chat.tokenizer.decode(after)).strip():
        shown = chat.tokenizer.decode(answer[-8:])
        raise Refusal(
            f"{pair.origin}: an answer must end in {chat.end_of_turn} under this chat template, got {shown!r}; "
            "set model.end_of_turn to the token that ends the assistant's turn"
        )


def _shorten(
    pair: PreferencePair,
    prompt: list[int],
    chosen: list[int],
    rejected: list[int],
    max_length: int,
    overlong: Overlong,
) -> tuple[list[int], list[int]] | str:
    if overlong == "stop":
        length = len(prompt) + max(len(chosen), len(rejected))
        raise Refusal(
            f"{pair.origin}: prompt and answer must have at most train.max_length={max_length} tokens, got "
            f"{length}; raise it, or set data.overlong to drop or cut"
        )
    if overlong == "drop":
        return f"longer than {max_length} tokens"
    room = max_length - len(prompt)
    if room <= 0:
        return f"prompt fills {max_length} tokens"
    if chosen[:room] == rejected[:room]:
        return "equal after the cut"
    return chosen[:room], rejected[:room]


def tokenize_splits(
    pairs: PreparedPairs, chat: ChatTokenizer, max_length: int | None, overlong: Overlong
) -> tuple[TokenizedPairs, TokenizedPairs]:
    """Tokenise both splits of `pairs` and enter what was dropped or cut into their ledger.

    Raises:
        Refusal: As `tokenize`, or no pair is left in a split.
    """
    splits = []
    for name, split, account in (
        ("train", pairs.train, pairs.ledger.train),
        ("held-out", pairs.held_out, pairs.ledger.held_out),
    ):
        made = tokenize(split, chat, max_length=max_length, overlong=overlong)
        for reason, count in made.dropped.items():
            account.drop(reason, count)
        account.truncated = made.truncated
        if not made.rows:
            raise Refusal(
                f"the {name} split must keep at least one pair of its {len(split)}, got none: "
                f"{', '.join(f'{count} {reason}' for reason, count in made.dropped.items())}; raise "
                "train.max_length or set data.overlong=cut"
            )
        splits.append(made)
    return splits[0], splits[1]
