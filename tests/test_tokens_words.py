"""Ids of remembered words are those of the whole text, for every tokenizer that qualifies; others are left alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from preftune.tokens import words
from preftune.tokens.words import Words

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>"]
CORPUS = [
    "The quick brown fox doesn't jump over 1234 lazy dogs, does it? I'll say: no!\n\nNaïve café, e\u0301tude.",
    "def add(a, b):\n\treturn a + b  # 12 + 3\n    x = {'key': [1, 2]}\r\n",
    "Привет мир 你好世界 مرحبا  two  spaces   three \u00a0nbsp 'S 'T it'S WE'RE",
] * 3


def byte_level(pattern: str | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        made.normalizer = normalizers.NFC()
    return made


PATTERNS = [None, *sorted(words._PATTERNS)]
QUALIFIED = [byte_level(pattern) for pattern in PATTERNS]

TEXT = st.lists(
    st.one_of(
        st.sampled_from([" ", "  ", "\n", " \n", "\t", "\r\n", "\u00a0", " a", " The", "'s", "'LL", " 'd", "e\u0301"]),
        st.sampled_from([*SPECIAL, "1", "12345", " 7", "...", " (", ")", "你好", " мир", "\u0301", "\u200b", "ﬁ", "İ"]),
        st.text(max_size=6),
    ),
    max_size=14,
).map("".join)


def whole(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize("tokenizer", QUALIFIED, ids=["gpt2", "three digits", "one digit"])
@settings(max_examples=300, deadline=None, derandomize=True)
@given(texts=st.lists(TEXT, min_size=1, max_size=3))
def test_words_have_the_ids_that_the_whole_text_has(tokenizer, texts):
    assert Words(tokenizer).encode(texts) == whole(tokenizer, texts)


@pytest.mark.parametrize("tokenizer", QUALIFIED, ids=["gpt2", "three digits", "one digit"])
def test_running_text_is_remembered_by_its_words(tokenizer):
    made = Words(tokenizer)
    for _ in range(2):
        assert made.encode(CORPUS) == whole(tokenizer, CORPUS)
    assert {"quick", "brown", "\0The"} <= set(made._ids or {})


def test_added_tokens_are_parts_of_their_own_where_none_can_overlap_another():
    made = Words(QUALIFIED[0])
    text = "<|im_start|>user\nGo on.<|im_end|>"
    assert made.encode([text, text]) == whole(QUALIFIED[0], [text, text])
    assert set(made._ids or {}) == {"\0", "\0<|im_start|>", "\0user\nGo", "on.", "\0<|im_end|>"}
    odd = with_token("<|im_end|>s")
    assert Words(odd).encode([text + "s"]) == whole(odd, [text + "s"])


def test_words_that_end_in_white_space_are_not_remembered_as_if_a_border_followed():
    made = Words(QUALIFIED[0])
    for text in ("a\n", "a\n b", "a", "a b", " b", "  b", "b  ", "a \u0301b", "\u00a0 b"):
        assert made.encode([text]) == whole(QUALIFIED[0], [text])
    assert {"\0a", "b", "\0"} <= set(made._ids or {})
    assert not {"\0a\n", "", "\0b  "} & set(made._ids or {})


def test_a_text_with_nul_is_one_part():
    made = Words(QUALIFIED[0])
    assert made.encode(["a b\0 c d"]) == whole(QUALIFIED[0], ["a b\0 c d"])


def test_only_short_parts_are_remembered_and_not_too_many(monkeypatch):
    made = Words(QUALIFIED[0])
    long = "x" * 40
    assert made.encode([long]) == whole(QUALIFIED[0], [long])
    assert made._ids == {}
    monkeypatch.setattr(words, "_MOST", 3)
    assert made.encode(["a b c d e f"]) == whole(QUALIFIED[0], ["a b c d e f"])
    assert len(made._ids or {}) == 3


def written(tokenizer: Tokenizer) -> dict[str, Any]:
    return dict(json.loads(tokenizer.to_str()))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    tokenizer = written(QUALIFIED[0])
    change(tokenizer)
    return tokenizer


def with_token(content: str = "<mask>", **flags: bool) -> Tokenizer:
    made = byte_level()
    made.add_tokens([AddedToken(content, **flags)])
    return made


@pytest.mark.parametrize(
    "tokenizer",
    [
        written(with_token(lstrip=True)),
        written(with_token(rstrip=True)),
        written(with_token(single_word=True)),
        changed(lambda made: made["model"].update(dropout=0.5)),
        written(byte_level(r"\S+")),
        changed(lambda made: made.update(pre_tokenizer=None)),
        changed(lambda made: made["pre_tokenizer"].update(add_prefix_space=True)),
        changed(lambda made: made["pre_tokenizer"].update(use_regex=False)),
        changed(lambda made: made.update(normalizer={"type": "Lowercase"})),
        changed(lambda made: made.update(normalizer={"type": "Prepend", "prepend": "x"})),
        changed(lambda made: made["model"].update(continuing_subword_prefix="##")),
        changed(lambda made: made["model"].update(end_of_word_suffix="</w>")),
        changed(lambda made: made["added_tokens"][0].update(content="<|im start|>")),
    ],
    ids=lambda _: "",
)
def test_a_tokenizer_for_which_the_argument_fails_is_used_as_it_is(tokenizer):
    assert not words._splits_at_words(tokenizer)
    assert words._splits_at_words(written(QUALIFIED[0]))


def test_other_tokenizers_encode_without_memory():
    made, text = byte_level(r"\S+"), "a b  c"
    assert Words(made).encode([text]) == whole(made, [text])
    assert Words(made)._ids is None


def test_a_token_that_takes_the_space_after_it_would_reach_over_the_border():
    made, text = with_token(rstrip=True), "a <mask> word"
    assert Words(made).encode([text]) == whole(made, [text])
    assert whole(made, ["a <mask>"])[0] + whole(made, [" word"])[0] != whole(made, [text])[0]
