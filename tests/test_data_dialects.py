"""Each dialect reads its layout, exactly as it is published, into pairs."""

import pytest

from preftune import pairs
from preftune.data.dialects import COLUMNS, DIALECTS
from preftune.data.rows import Row, RowError
from preftune.data.settings import DIALECT_NAMES
from preftune.pairs import PreferencePair

USER = {"role": "user", "content": "2 + 2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATML_PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def read(dialect: str, **columns: object) -> PreferencePair:
    pair = DIALECTS[dialect](Row("rows.json:1", columns))
    assert list(pairs.faults(pair)) == []
    return pair


def told(pair: PreferencePair) -> tuple[list[dict[str, str]], str, str]:
    return [dict(message) for message in pair.prompt], pair.chosen, pair.rejected


def test_every_dialect_that_settings_offer_has_a_reader_and_its_columns():
    assert {"auto", *DIALECTS} == {"auto", *COLUMNS} == set(DIALECT_NAMES)
    assert len(DIALECTS) == 10


@pytest.mark.parametrize("prompt", ["2 + 2?", [USER], USER])
@pytest.mark.parametrize("answer", [lambda text: text, lambda text: [assistant(text)], assistant])
def test_prompt_and_answers_are_plain_text_or_messages(prompt, answer):
    pair = read("messages", prompt=prompt, chosen=answer("4"), rejected=answer("5"))
    assert told(pair) == ([USER], "4", "5")
    assert pair.origin == "rows.json:1"


def test_a_prompt_that_answers_repeat_is_taken_off_them():
    pair = read("messages", prompt=[SYSTEM, USER], chosen=[SYSTEM, USER, assistant("4")], rejected="5")
    assert told(pair) == ([SYSTEM, USER], "4", "5")


def test_several_turns_stay_in_the_prompt():
    turns = [USER, assistant("4"), {"role": "user", "content": "And 3 + 3?"}]
    pair = read("messages", prompt=turns, chosen="6", rejected=[*turns, assistant("7")])
    assert told(pair) == (turns, "6", "7")


def test_ultrafeedback_cleaned_by_argilla():
    pair = read(
        "ultrafeedback",
        source="evol_instruct",
        prompt="2 + 2?",
        chosen=[{"content": "2 + 2?", "role": "user"}, {"content": "4", "role": "assistant"}],
        rejected=[{"content": "2 + 2?", "role": "user"}, {"content": "5", "role": "assistant"}],
        **{"chosen-rating": 5.0, "rejected-rating": 1.0, "chosen-model": "a", "rejected-model": "b"},
    )
    assert told(pair) == ([USER], "4", "5")


def test_ultrafeedback_binarized_with_several_turns():
    shared = [USER, assistant("4"), {"role": "user", "content": "Sure?"}]
    pair = read(
        "ultrafeedback",
        prompt="2 + 2?",
        prompt_id="0f",
        chosen=[*shared, assistant("Yes")],
        rejected=[*shared, assistant("No")],
        messages=[*shared, assistant("Yes")],
        score_chosen=9.0,
        score_rejected=3.0,
    )
    assert told(pair) == (shared, "Yes", "No")


def test_ultrafeedback_with_a_system_column():
    pair = read(
        "ultrafeedback", system="Be brief.", prompt="2 + 2?", chosen=[USER, assistant("4")], rejected=assistant("5")
    )
    assert told(pair) == ([SYSTEM, USER], "4", "5")


@pytest.mark.parametrize("column", ["question", "prompt", "input"])
def test_openhermes_as_plain_text(column):
    pair = read("openhermes", **{column: "2 + 2?"}, system="Be brief.", chosen="4", rejected="5", delta_score=1)
    assert told(pair) == ([SYSTEM, USER], "4", "5")


@pytest.mark.parametrize("system", [None, ""])
def test_openhermes_without_a_system_text_has_no_system_turn(system):
    assert told(read("openhermes", question="2 + 2?", system=system, chosen="4", rejected="5"))[0] == [USER]


def test_openhermes_as_messages():
    pair = read(
        "openhermes",
        input="2 + 2?",
        system="Be brief.",
        chosen=[USER, assistant("4")],
        rejected=[USER, assistant("5")],
    )
    assert told(pair) == ([SYSTEM, USER], "4", "5")


def test_openhermes_rendered_as_chatml_is_parsed_back_to_messages():
    pair = read("openhermes", prompt=CHATML_PROMPT, chosen="4<|im_end|>\n", rejected="5<|im_end|>")
    assert told(pair) == ([SYSTEM, USER], "4", "5")


def test_a_whole_chatml_dialogue_in_the_answers_is_parsed_too():
    turn = "<|im_start|>assistant\n{}<|im_end|>\n"
    whole = CHATML_PROMPT.removesuffix("<|im_start|>assistant\n")
    pair = read("openhermes", question=whole, chosen=whole + turn.format("4"), rejected=turn.format("5"))
    assert told(pair) == ([SYSTEM, USER], "4", "5")


def test_a_system_column_that_repeats_the_rendered_system_turn_is_said_once():
    rendered = "<|im_start|>system\nBe brief.<|im_end|>\n"
    for system in ("Be brief.", rendered):
        pair = read("openhermes", prompt=CHATML_PROMPT, system=system, chosen="4", rejected="5")
        assert told(pair) == ([SYSTEM, USER], "4", "5")


RENDERINGS = {
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{}<|eot_id|>",
        [SYSTEM, USER],
    ),
    "llama3, ended twice": (
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "{}<|eot_id|><|end_of_text|>",
        [USER],
    ),
    "mistral": ("<s>[INST] 2 + 2? [/INST]", " {}</s>", [USER]),
    "mistral, two turns": (
        "<s>[INST] 2 + 2? [/INST] 4</s>[INST] Sure? [/INST]",
        " {}</s>",
        [USER, assistant("4"), {"role": "user", "content": "Sure?"}],
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\n2 + 2?</s>\n<|assistant|>\n",
        "{}</s>\n",
        [SYSTEM, USER],
    ),
}


@pytest.mark.parametrize(("prompt", "answer", "turns"), RENDERINGS.values(), ids=RENDERINGS)
def test_other_renderings_are_parsed_back_as_prompt_and_answer_and_as_whole_dialogues(prompt, answer, turns):
    yes, no = answer.format("Yes."), answer.format("No.")
    assert told(read("openhermes", prompt=prompt, chosen=yes, rejected=no)) == (turns, "Yes.", "No.")
    assert told(read("openhermes", prompt=prompt, chosen=prompt + yes, rejected=no)) == (turns, "Yes.", "No.")
    assert told(read("implicit", chosen=prompt + yes, rejected=prompt + no)) == (turns, "Yes.", "No.")


@pytest.mark.parametrize("dialect", ["messages", "openhermes"])
@pytest.mark.parametrize("text", ["No: <s>4</s>", "<s>4</s> 5 <s>6</s>", "<s>4</s> 5"])
def test_text_struck_out_in_html_is_plain_text(dialect, text):
    assert read(dialect, prompt="2 + 2?", chosen="4", rejected=text).rejected == text


@pytest.mark.parametrize("text", ["<s>5</s>", "<s> 5</s>\n", " <s>5</s></s>"])
def test_begin_and_end_tokens_around_a_whole_answer_are_taken_off_it(text):
    assert read("openhermes", prompt="2 + 2?", chosen="4", rejected=text).rejected == "5"


def test_no_marker_of_any_template_is_left_in_what_openhermes_reads():
    pair = read("openhermes", prompt=CHATML_PROMPT, chosen="4<|im_end|>\n", rejected="5<|im_end|>\n")
    assert "<|" not in repr(told(pair))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<|im_start|>assistant\n4", "whole ChatML turns, got '<|im_start|>' in '<|im_start|>assistant\\n4'"),
        (
            "<|im_start|>tool\n4<|im_end|>",
            "ChatML of system, user, human, assistant, gpt, got a turn of 'tool'",
        ),
        ("<|im_start|>assistant\n4<|im_end|>\nor 5", "whole ChatML turns, got '<|im_start|>' in '\\nor 5'"),
        ("4<|im_end|> and 5", "whole ChatML turns, got '<|im_end|>' in '4<|im_end|> and 5'"),
        ("4<|eot_id|>5", "whole Llama-3 turns, got '<|eot_id|>' in '4<|eot_id|>5'"),
        ("<<SYS>>\n4", "whole Mistral turns, got '<<SYS>>' in '<<SYS>>\\n4'"),
        ("[INST] <<SYS>>a<</SYS>> b [/INST]4</s>", "whole Mistral turns, got '<<SYS>>' within ' <<SYS>>a<</SYS>> b '"),
        ("[INST] a [/INST] 4", "whole Mistral turns, got '[INST]' in ' 4'"),
        ("<|user|>\na<|end|>\n<|assistant|>\n", "whole Zephyr turns, got '<|user|>' in '<|user|>\\na<|end|>"),
        ("4</s> or 5</s>", "text that no chat template has rendered, got '4</s> or 5</s>'"),
        ("<|tool|>\n4</s>\n<|user|>\n", "Zephyr of system, user, human, assistant, gpt, got a turn of 'tool'"),
        ("<|im_start|>user\na<|im_start|>b<|im_end|>", "got '<|im_start|>' within 'a<|im_start|>b'"),
        (CHATML_PROMPT, "chosen must end with the assistant's turn, got 'user'"),
    ],
)
def test_rendered_text_that_is_not_whole_is_refused(text, fault):
    with pytest.raises(RowError, match=r"^chosen must ") as error:
        read("openhermes", question="2 + 2?", chosen=text, rejected="5")
    assert fault in str(error.value)


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_implicit_prompt_is_what_both_dialogues_begin_with(system):
    turns = [USER, assistant("4"), {"role": "user", "content": "And 3 + 3?"}]
    pair = read("implicit", system=system, chosen=[*turns, assistant("6")], rejected=[*turns, assistant("7")])
    assert told(pair) == ([SYSTEM, *turns] if system else turns, "6", "7")


def test_implicit_dialogues_rendered_as_chatml_are_parsed_back():
    whole = CHATML_PROMPT + "{}<|im_end|>\n"
    pair = read("implicit", chosen=whole.format("4"), rejected=whole.format("5"))
    assert told(pair) == ([SYSTEM, USER], "4", "5")


def test_hh_rlhf_takes_the_common_part_up_to_the_last_assistant_as_prompt():
    shared = "\n\nHuman: 2 + 2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant:"
    pair = read("hh_rlhf", chosen=f"{shared} Yes, 4.", rejected=f"{shared} Yes, 5.")
    turns = [USER, assistant("4"), {"role": "user", "content": "Sure?"}]
    assert told(pair) == (turns, "Yes, 4.", "Yes, 5.")


def test_orca_pairs_with_and_without_a_system_text():
    row = {"question": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert told(read("orca", system="Be brief.", **row)) == ([SYSTEM, USER], "4", "5")
    assert told(read("orca", system="", **row)) == ([USER], "4", "5")


def test_sharegpt_rankings_name_their_roles_human_and_gpt():
    pair = read(
        "sharegpt",
        conversations=[
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "2 + 2?"},
        ],
        chosen={"from": "gpt", "value": "4"},
        rejected={"from": "gpt", "value": "5"},
    )
    hello = [{"role": "user", "content": "Hi"}, assistant("Hello")]
    assert told(pair) == ([SYSTEM, *hello, USER], "4", "5")
