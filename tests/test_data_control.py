"""Control tokens inside text are refused, broken up or let through."""

import json

import pytest

from preftune.data.control import Control
from preftune.data.loading import load_pairs
from preftune.data.rows import RowError
from preftune.data.settings import DataSettings
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import PreferencePair
from preftune.refusals import Refusal
from preftune.tokens.encoding import control_tokens
from tests import stock

CHATML = ChatTokenizer(stock.tokenizer(stock.CHATML), "<|im_end|>")
LLAMA3 = ChatTokenizer(stock.tokenizer(stock.LLAMA3), "<|eot_id|>")
TOKENS = ("<|im_end|>", "</s>", "[INST]", "s>x")


def pair(prompt: str = "Why?", chosen: str = "So.", rejected: str = "No.") -> PreferencePair:
    asked = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt})
    return PreferencePair(asked, chosen, rejected, "a:1", {"w": 1.0})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"prompt": "Say </s> twice, please, and then go on"},
            "prompt[1].content must hold no control token of the tokenizer, got '</s>' in 'Say </s> twice, plea'",
        ),
        ({"chosen": "[INST]"}, "chosen must hold no control token of the tokenizer, got '[INST]' in '[INST]'"),
        (
            {"rejected": "a<|im_end|>"},
            "rejected must hold no control token of the tokenizer, got '<|im_end|>' in 'a<|im_end|>'",
        ),
    ],
)
def test_a_control_token_is_refused_by_its_field(change, sentence):
    with pytest.raises(RowError) as error:
        Control(TOKENS, "refuse").settled(pair(**change))
    assert str(error.value) == f"{sentence}; data.control_tokens=escape breaks it up"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("<|im_end|>", "< |im_end|>"),
        ("a</s>[INST]b", "a< /s>[ INST]b"),
        ("<</s>/s>", "<< /s>/s>"),
        ("</s>x", "< /s >x"),  # breaking the first leaves the second, which it overlapped
        ("</s></s>", "< /s>< /s>"),
    ],
)
def test_a_control_token_is_broken_up_wherever_it_stands(text, broken):
    found = Control(TOKENS, "escape").settled(pair(text, text + "1", text + "2"))
    assert found == pair(broken, broken + "1", broken + "2")


@pytest.mark.parametrize("policy", ["refuse", "escape"])
def test_a_pair_without_control_tokens_is_handed_back_itself(policy):
    one = pair("<s", "< /s> [INST", "|im_end|")
    assert Control(TOKENS, policy).settled(one) is one
    assert Control((), policy).settled(one) is one


def test_control_tokens_are_let_through_where_asked():
    one = pair("<|im_end|>")
    assert Control(TOKENS, "allow").settled(one) is one


def test_a_token_that_cannot_be_broken_up_is_refused():
    with pytest.raises(RowError, match=r"^chosen must hold no control token that cannot be broken up, got '§'$"):
        Control(("§", "</s>"), "escape").settled(pair(chosen="</s>§ 5"))


def test_the_markers_that_a_template_writes_are_control_tokens_though_the_tokenizer_has_none():
    chat = ChatTokenizer(stock.tokenizer(stock.CHATML), "<|im_end|>")
    chat.tokenizer.chat_template = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    assert control_tokens(chat) == ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "[/INST]", "[INST]"]
    with pytest.raises(RowError, match=r"chosen must hold no control token of the tokenizer, got '\[/INST\]' in"):
        Control(control_tokens(chat), "refuse").settled(pair(chosen="a [/INST] b"))


@pytest.mark.parametrize("chat", [CHATML, LLAMA3], ids=["ChatML", "Llama-3"])
def test_text_that_is_broken_up_yields_no_control_id(chat):
    special = {token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.special}
    ids = set(chat.tokenizer.convert_tokens_to_ids(sorted(special)))
    hostile = "".join(f"{token}{token[:-1]}{token}>" for token in sorted(special))
    assert ids & set(chat.tokenizer(hostile)["input_ids"])
    broken = Control(control_tokens(chat), "escape").settled(pair(hostile, hostile, "b"))
    for text in (broken.prompt[1]["content"], broken.chosen):
        assert not ids & set(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_pairs_that_are_broken_up_are_counted_and_refused_ones_told(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": f"a{'<|im_end|>.' * (n % 2)}", "rejected": "b"} for n in range(5)]
    file.write_text("\n".join(map(json.dumps, rows)))
    fields = {"name": "x", "source": "files", "path": str(file), "dialect": "messages", "test_size": 1}

    def load(policy: str):
        return load_pairs(DataSettings.model_validate(fields | {"control_tokens": policy}), control_tokens(CHATML))

    escaped, allowed = load("escape"), load("allow")
    assert (escaped.ledger.train.escaped, allowed.ledger.train.escaped) == (2, 0)
    texts = {one.chosen for split in (escaped.train, escaped.held_out) for one in split}
    assert texts == {"a", "a< |im_end|>."}
    with pytest.raises(Refusal) as refused:
        load("refuse")
    assert str(refused.value) == (
        "every row must be right, got 2 wrong of 5; mend or remove them, or set data.on_bad_row=drop:\n"
        + "\n".join(
            f"  a.jsonl:{row}: chosen must hold no control token of the tokenizer, got '<|im_end|>' in "
            "'a<|im_end|>.'; data.control_tokens=escape breaks it up"
            for row in (2, 4)
        )
    )
