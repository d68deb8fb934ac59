"""The prompt of a pair is encoded once for both answers wherever that changes no id, and nowhere else."""

import pytest
from tokenizers import AddedToken

from preftune.models.tokenizer import ChatTokenizer
from preftune.tokens.encoding import Encoder
from tests.parity.cases import from_stock, pair
from tests.parity.families import FAMILIES, chat

MARK = "fnord"
PAIRS = [pair(f"made:{place}", "It is.", turns=[f"Why {MARK}?", "So.", f"And {place}?"]) for place in range(5)]


class Watched(Encoder):
    """Keeps what was encoded."""

    def __init__(self, made: ChatTokenizer) -> None:
        super().__init__(made)
        self.seen: list[list[str]] = []

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode and keep `texts`."""
        self.seen.append(texts)
        return super().encode(texts)

    def encode_afresh(self, texts: list[str]) -> list[list[int]]:
        """Encode and keep `texts`."""
        self.seen.append(texts)
        return super().encode_afresh(texts)

    def times(self) -> list[int]:
        """Return how often the prompt's mark was encoded in each call."""
        return [sum(MARK in text for text in texts) for texts in self.seen]


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].cut])
def test_a_prompt_is_encoded_once_and_one_pair_is_held_against_its_whole_text(name: str) -> None:
    encoder = Watched(chat(name))
    made = list(encoder.pairs(PAIRS))
    assert encoder.times() == [5, 3]
    assert all(MARK not in text for place, text in enumerate(encoder.seen[0]) if place % 4)
    assert made == from_stock(chat(name), PAIRS)


def test_without_a_control_token_before_the_answer_the_whole_text_is_encoded() -> None:
    single = [pair(f"made:{place}", "It is.", turns=[f"Why {MARK} {place}?"]) for place in range(5)]
    encoder = Watched(chat("mistral-v0.1"))
    assert list(encoder.pairs(single)) == from_stock(chat("mistral-v0.1"), single)
    assert encoder.times() == [15, 3]


def with_token(name: str, token: AddedToken) -> ChatTokenizer:
    made = FAMILIES[name].chat()
    made.tokenizer.add_tokens([token])
    return made


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("\n<|im_start|>", special=True, normalized=False),
        AddedToken("\n<|im_s", special=False, normalized=False),
        AddedToken("<|im_start|>assistant", special=True, normalized=False, lstrip=True),
    ],
    ids=["longer", "overlapping", "taking the space on its left"],
)
def test_a_token_that_may_hold_the_control_token_moves_the_cut_before_another(token: AddedToken) -> None:
    made = with_token("chatml", token)
    encoder = Watched(made)
    ids = list(encoder.pairs(PAIRS))
    assert ids == from_stock(made, PAIRS)
    assert any(made.tokenizer.convert_tokens_to_ids(str(token)) in prompt for prompt, _, _ in ids)
    assert all(text.startswith("<|im_end|>") for place, text in enumerate(encoder.seen[0]) if place % 4)


def test_a_control_token_that_takes_the_space_on_its_left_is_no_place_to_cut() -> None:
    made = FAMILIES["chatml"].chat()
    made.tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|turn|>", special=True, lstrip=True)])
    made.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} <|turn|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    made = ChatTokenizer(made.tokenizer, "<|turn|>")
    encoder = Watched(made)
    spaced = [pair("made:1", "It is.", turns=[f"Why {MARK}?"])]
    assert len(encoder.encode(["a <|turn|>"])[0]) == 2
    encoder.seen.clear()
    assert list(encoder.pairs(spaced)) == from_stock(made, spaced)
    assert encoder.times() == [3, 3]


def test_a_batch_whose_ids_change_by_the_cut_is_encoded_whole() -> None:
    made = FAMILIES["chatml"].chat()
    made.tokenizer.add_tokens([AddedToken("\n<|im_start|>", special=True, normalized=False)])
    encoder = Watched(made)
    encoder._reach = ""  # the cut is trusted, as where a tokenizer does what its flags do not say
    assert list(encoder.pairs(PAIRS)) == from_stock(made, PAIRS)
    assert encoder.times() == [5, 3, 15]


def test_the_first_pair_that_is_cut_is_the_one_that_is_checked() -> None:
    made = FAMILIES["mistral-v0.1"].chat()
    made.tokenizer.add_tokens([AddedToken("!<s>", special=True, normalized=False)])
    encoder = Watched(made)
    encoder._reach = ""
    single = pair("made:1", "It is.", turns=["Why?"])
    turns = pair("made:2", "It is.", turns=["And !<s>?"])
    assert list(encoder.pairs([single, turns])) == from_stock(made, [single, turns])
