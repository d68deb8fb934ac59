"""What the chat template makes of a dialogue is checked: its BOS, its prompt, its end of turn."""

import pytest

from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.tokens import tokenization as tokens
from preftune.tokens.encoding import Encoder
from tests import stock

PAIR = PreferencePair(({"role": "user", "content": "Hello?"},), "Good day.", "No.", "made:1")


def chat(style: stock.Style, end_of_turn: str) -> ChatTokenizer:
    return ChatTokenizer(stock.tokenizer(style), end_of_turn)


def one(made: ChatTokenizer, pair: PreferencePair = PAIR) -> None:
    tokens.tokenize(stock.table([pair]), made, max_length=None, overlong="stop")


def test_a_template_that_writes_bos_twice_is_refused() -> None:
    made = chat(stock.LLAMA3, "<|eot_id|>")
    made.tokenizer.chat_template = "{{ bos_token }}" + stock.LLAMA3.template
    made.tokenizer.add_bos_token = True
    with pytest.raises(Refusal, match=r"a dialogue must begin with exactly one <\|begin_of_text\|>, got 2"):
        one(made)


def test_an_answer_without_its_end_token_is_refused() -> None:
    made = chat(stock.CHATML, "<|endoftext|>")
    with pytest.raises(Refusal, match=r"made:1: an answer must end in <\|endoftext\|> under this chat template, got "):
        one(made)


def test_a_template_that_renders_the_prompt_alone_differently_is_refused() -> None:
    made = chat(stock.CHATML, "<|im_end|>")
    made.tokenizer.chat_template = "{{ messages | length }}" + stock.CHATML.template
    with pytest.raises(Refusal, match="made:1: the prompt's tokens must be a prefix of prompt and answer"):
        one(made)


def test_a_template_that_refuses_the_roles_is_named() -> None:
    made = chat(stock.CHATML, "<|im_end|>")
    made.tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
    pair = PreferencePair(({"role": "system", "content": "Be kind."}, *PAIR.prompt), "a", "b", "made:1")
    with pytest.raises(Refusal, match="the chat template must render the turns system, user, got no system turn"):
        one(made, pair)


def test_only_white_space_may_follow_the_end_of_turn() -> None:
    made = chat(stock.CHATML, "<|im_end|>")
    made.tokenizer.chat_template = stock.CHATML.template.replace("<|im_end|>\n", "<|im_end|> \n x")
    with pytest.raises(
        Refusal, match=r"made:1: an answer must end in <\|im_end\|> under this chat template, got '.* x'"
    ):
        one(made)


def test_a_dialogue_that_cannot_be_rendered_is_named_among_others() -> None:
    made = chat(stock.CHATML, "<|im_end|>")
    made.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + stock.CHATML.template
    )
    system = PreferencePair(({"role": "system", "content": "Be kind."}, *PAIR.prompt), "a", "b", "made:2")
    first, second = Encoder(made).pairs([PAIR, system])
    assert not isinstance(first, str)
    assert second == "the chat template must render the turns system, user, got no system turn"
    kept = tokens.tokenize(stock.table([PAIR, system]), made, max_length=None, overlong="stop", on_bad_row="drop")
    assert [row["row"] for row in kept.rows] == [0]
    assert kept.dropped == {"wrong: the chat template must render the turns system, user": 1}
