"""The same pairs become the same ids as in stock TRL, in every family of chat tokenizers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.data.rendered import TEMPLATES
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.tokens import tokenization as tokens
from tests import stock
from tests.parity.cases import ANSWERS, PROMPTS, SYSTEM, Ids, from_stock, pair
from tests.parity.families import FAMILIES, begins_with, chat, control

MARKERS = [*(marker for template in TEMPLATES for marker in template.markers), "<s>", "</s>", "<think>", "</think>"]
PIECES = st.one_of(
    st.text(max_size=8),
    st.text(" \n\t.]a1", max_size=4),
    st.sampled_from([*MARKERS, *(f" {marker}\n" for marker in MARKERS)]),
)
TEXT = st.lists(PIECES, min_size=1, max_size=6).map("".join).filter(str.strip)


def cases(name: str) -> list[PreferencePair]:
    """Return the pairs that the family takes, but for those whose answer merges with the prompt."""
    made = [*ANSWERS, *PROMPTS, *(SYSTEM if FAMILIES[name].system else [])]
    return [each for each in made if each.origin not in FAMILIES[name].merges]


def ours(made: ChatTokenizer, pairs: list[PreferencePair]) -> list[Ids]:
    """Return the prompt's, chosen and rejected ids that preftune prepares."""
    rows = tokens.tokenize(stock.table(pairs), made, max_length=None, overlong="stop").rows
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_pair_alone_gets_the_ids_of_stock_trl(name: str) -> None:
    made = chat(name)
    pairs = cases(name)
    assert len(pairs) >= 26
    for each, expected in zip(pairs, from_stock(made, pairs), strict=True):
        assert ours(made, [each]) == [expected], each.origin


@pytest.mark.parametrize("name", FAMILIES)
def test_many_pairs_at_once_get_the_ids_of_stock_trl(name: str) -> None:
    made = chat(name)
    pairs = cases(name) * 2
    for order in (pairs, pairs[::-1]):  # the first of a batch decides where all are cut
        assert ours(made, order) == from_stock(made, order)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in FAMILIES for case in sorted(FAMILIES[name].merges)]
)
def test_an_answer_that_merges_with_the_prompt_is_refused_where_stock_trl_shortens_the_prompt(
    name: str, case: str
) -> None:
    made = chat(name)
    [merging] = [each for each in ANSWERS if each.origin == case]
    [(shortened, _, _)] = from_stock(made, [merging])
    prompt = tokens.prompt_ids(merging.prompt, made)
    assert shortened == prompt[:-1]
    with pytest.raises(Refusal) as refused:
        ours(made, [merging])
    assert str(refused.value) == (
        f"{case}: the prompt's tokens must be a prefix of prompt and answer under this chat template, but the answer's "
        "beginning merges with the prompt's end; take the white space off the answer, or set model.chat_template to "
        "one that trims it; data.on_bad_row=drop leaves such pairs out"
    )


def test_a_prompt_that_is_rendered_differently_alone_is_refused_where_stock_trl_shortens_it() -> None:
    made = FAMILIES["qwen3"].chat()
    made.tokenizer.chat_template = FAMILIES["qwen3"].template.replace(
        "{{ '<|im_start|>assistant\n' }}{% endif %}", "{{ '<|im_start|>assistant\n<think>\nHm.' }}{% endif %}"
    )
    [(shortened, _, _)] = from_stock(made, [ANSWERS[0]])
    prompt = tokens.prompt_ids(ANSWERS[0].prompt, made)
    assert shortened == prompt[: len(shortened)] != prompt
    with pytest.raises(Refusal) as refused:
        ours(made, ANSWERS[:1])
    assert str(refused.value) == (
        "plain: the prompt's tokens must be a prefix of prompt and answer under this chat template, but the template "
        "renders the prompt alone differently; set model.chat_template to one that does not; data.on_bad_row=drop "
        "leaves such pairs out"
    )


@pytest.mark.parametrize("name", [name for name in FAMILIES if not FAMILIES[name].system])
def test_a_template_without_a_system_turn_refuses_one(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        ours(chat(name), [ANSWERS[0], SYSTEM[0]])
    assert str(refused.value) == (
        "system: the chat template must render the turns system, user, got System role not supported; "
        "data.on_bad_row=drop leaves such pairs out"
    )


@pytest.mark.parametrize("name", ["mistral-v0.1", "mistral-v0.3", "gemma"])
def test_a_template_of_alternating_turns_refuses_others(name: str) -> None:
    user = ANSWERS[0].prompt[0]
    twice = PreferencePair((user, user), "It is.", "No.", "made:1")
    with pytest.raises(Refusal) as refused:
        ours(chat(name), [twice])
    assert str(refused.value) == (
        "made:1: the chat template must render the turns user, user, got Roles must alternate; data.on_bad_row=drop "
        "leaves such pairs out"
    )


def test_a_template_that_leaves_out_the_bos_that_the_tokenizer_writes_is_refused() -> None:
    made = FAMILIES["zephyr"].chat()
    begins_with(made.tokenizer.backend_tokenizer, "<s>")
    with pytest.raises(Refusal) as refused:
        ours(made, ANSWERS[:1])
    assert str(refused.value) == (
        "a dialogue must begin with exactly one <s>, got 0; the chat template and the tokenizer disagree: set "
        "model.chat_template to one that writes it once"
    )


@pytest.mark.parametrize("name", ["llama3", "mistral-v0.3"])
def test_no_text_changes_the_ids(name: str) -> None:
    made = chat(name)
    exchange = st.tuples(st.lists(TEXT, min_size=1, max_size=3).filter(lambda turns: len(turns) % 2), TEXT, TEXT)

    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(st.lists(exchange, min_size=1, max_size=8))
    def check(drawn: list[tuple[list[str], str, str]]) -> None:
        pairs = [
            pair(f"made:{place}", chosen, rejected, turns) for place, (turns, chosen, rejected) in enumerate(drawn)
        ]
        assert ours(made, pairs) == from_stock(made, pairs)

    check()


def test_a_token_that_reaches_over_a_control_token_changes_no_ids() -> None:
    family = FAMILIES["mistral-v0.1"]
    made = family.chat()
    made.tokenizer.add_tokens(control("!</s>"))
    exchanges = [["Why?", "So.", "And?"], ["Why?", "So!", "And?"]]
    pairs = [pair(f"made:{place}", "It is.", turns=turns) for place, turns in enumerate(exchanges)]
    reached = made.tokenizer.convert_tokens_to_ids("!</s>")
    expected = from_stock(made, pairs)
    assert [reached in prompt for prompt, _, _ in expected] == [False, True]
    assert ours(made, pairs) == expected
