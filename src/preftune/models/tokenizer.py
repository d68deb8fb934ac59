"""The tokenizer of a model recipe: its chat template, its pad token, and the token that ends a turn."""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from preftune.models.settings import ModelSettings
from preftune.models.source import ModelSource, reachable
from preftune.plugins import FAULTS
from preftune.refusals import Refusal


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer that is known to render and to end a dialogue.

    Attributes:
        tokenizer: With its chat template and its pad token set.
        end_of_turn: Token that ends the assistant's turn.
        notes: What differs from the recipe, for the plan.
    """

    tokenizer: PreTrainedTokenizerBase
    end_of_turn: str
    notes: list[str] = field(default_factory=list)

    def template_hash(self) -> str:
        """Return a hex digest of the chat template."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    @functools.cached_property
    def digest(self) -> str:
        """A hex digest of everything that decides which ids a dialogue becomes."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        made_of = backend.to_str() if backend else json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        parts = [type(self.tokenizer).__name__, made_of, str(self.tokenizer.special_tokens_map), self.end_of_turn]
        return hashlib.sha256("\n".join([*parts, self.template_hash()]).encode()).hexdigest()

    @property
    def end_ids(self) -> list[int]:
        """Ids at which generation stops."""
        end = self.tokenizer.convert_tokens_to_ids(self.end_of_turn)
        return sorted({end, self.tokenizer.eos_token_id} - {None})


def load_tokenizer(settings: ModelSettings, source: ModelSource) -> ChatTokenizer:
    """Load the tokenizer and settle how it renders, pads and ends a turn.

    A token that the recipe names and a local copy's tokenizer lacks is replaced by the tokenizer's own, and the
    note says so; from the hub it is refused.

    Raises:
        Refusal: It cannot be loaded, has no chat template, or lacks a token that the recipe names.
    """
    with reachable(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location,
            revision=source.revision,
            trust_remote_code=False,  # left out, transformers asks at the terminal
        )
    if settings.chat_template is not None:
        tokenizer.chat_template = _read_template(settings.chat_template)
    if not tokenizer.chat_template:
        raise Refusal(
            f"{source.location} has no chat template (model.start={settings.start}): set model.chat_template to a "
            "Jinja file that renders messages, or start from a model that was tuned on dialogues"
        )
    notes: list[str] = []
    named = _known(settings.end_of_turn, "end_of_turn", tokenizer, source, notes)
    end_of_turn = named or _end_written_by_template(tokenizer)
    pad = _known(settings.pad_token, "pad_token", tokenizer, source, notes)
    tokenizer.pad_token = pad or tokenizer.pad_token or end_of_turn
    return ChatTokenizer(tokenizer, end_of_turn, notes)


def _known(
    token: str | None, key: str, tokenizer: PreTrainedTokenizerBase, source: ModelSource, notes: list[str]
) -> str | None:
    if token is None or token in tokenizer.get_vocab():
        return token
    if not source.is_local:
        raise Refusal(f"model.{key} must be a token of {source.location}, got {token!r}")
    notes.append(f"model.{key} {token} is not in the tokenizer at {source.location}; its own is used")
    return None


def _end_written_by_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the special token that the template writes last after an answer.

    Raises:
        Refusal: The template cannot be rendered, or ends an answer with plain text, so that generation would not know
            where to stop.
    """
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids: list[int] = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]  # type: ignore[index, call-overload, assignment]
    except (jinja2.TemplateError, *FAULTS) as fault:
        raise Refusal(
            f"the chat template must render a question and its answer, got {type(fault).__name__}: {fault}; set "
            "model.chat_template to one that does"
        ) from fault
    written = [token for token in ids if str(tokenizer.decode([token])).strip()]
    if written[-1] not in tokenizer.all_special_ids and written[-1] not in tokenizer.added_tokens_decoder:
        raise Refusal(
            "the chat template must end the assistant's turn with a special token, got "
            f"{tokenizer.decode(ids[-8:])!r}; set model.chat_template to one that does"
        )
    return str(tokenizer.convert_ids_to_tokens(written[-1]))


def _read_template(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise Refusal(f"model.chat_template must be a Jinja file, got {path}, which does not exist")
    return file.read_text(encoding="utf-8")
