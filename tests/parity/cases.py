"""Pairs that a tokenizer may trip over, and what stock TRL makes of them."""

from collections.abc import Sequence
from functools import cache

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import Message, PreferencePair

Ids = tuple[list[int], list[int], list[int]]


def pair(name: str, chosen: str, rejected: str = "No.", turns: Sequence[str] = ("Why?",)) -> PreferencePair:
    """Return a pair whose prompt is `turns`, the user's and the assistant's by turns."""
    prompt = tuple(Message(role="assistant" if place % 2 else "user", content=turn) for place, turn in enumerate(turns))
    return PreferencePair(prompt, chosen, rejected, name)


_ANSWERS = {
    "plain": "It is the short one.",
    "space": " It is.",
    "two spaces": "  It is.",
    "newline": "\nIt is.",
    "two newlines": "\n\nIt is.",
    "combining": "\u0301a cafe\u0301 nai\u0308ve",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 yes 🇩🇪",
    "cjk": "你好世界。",
    "rtl": "שלום עולם، مرحبا",
    "digits": "1234567 and 89",
    "ends in a space": "It is. ",
    "ends in newlines": "It is.\n\n",
    "looks empty": "\u200b",
    "bracket": "]]",
    "code": "```python\n\tif a:\n\t\treturn [[1, 2], [3]]\n```",
    "thinks": "<think>\nThe answer\n\nis short.\n</think>\n\nIt is.",
    "long": "The answer to the question, and why 12.\n\n" * 122,
    **{token: f"It{token} is {token}ok" for token in ("<s>", "</s>", "[INST]", "[/INST]", "<|im_end|>", "<|eot_id|>")},
    "bos first": "<s>It is.",
}
_PROMPTS = {
    "three turns": ["Why?", "It is.", "And then?"],
    "five turns": ["Why?", " It is. ", "And\tthen?\n", "<think>\nA thought.\n</think>\n\nThis.", " 你好 "],
    "controls in the prompt": ["a <s> [INST] b </s> <|im_start|>user\nc<|im_end|> <|eot_id|> <end_of_turn> d "],
    "controls at the ends": ["<|im_start|>a</s>", "[/INST]<s>", "<s>[INST]"],
    "long prompt": ["The answer to the question. " * 50, "\n", "e\u0301 12345\n\n"],
}
ANSWERS = [pair(name, answer) for name, answer in _ANSWERS.items()]
PROMPTS = [pair(name, "It is.", "\tNo 12.", turns) for name, turns in _PROMPTS.items()]
SYSTEM = [
    PreferencePair((Message(role="system", content=" Be short. "), *made.prompt), made.chosen, "No.", made.origin)
    for made in (pair("system", "It is."), pair("system and turns", " It is.", turns=("Why?", "So.", "And?")))
]


def from_stock(chat: ChatTokenizer, pairs: Sequence[PreferencePair]) -> list[Ids]:
    """Return the prompt's, chosen and rejected ids that stock TRL prepares."""
    rows = [
        {
            "prompt": list(each.prompt),
            "chosen": [{"role": "assistant", "content": each.chosen}],
            "rejected": [{"role": "assistant", "content": each.rejected}],
        }
        for each in pairs
    ]
    trainer = DPOTrainer.__new__(DPOTrainer)
    prepared = trainer._prepare_dataset(Dataset.from_list(rows), chat.tokenizer, arguments(), "train")
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in prepared]


@cache
def arguments() -> DPOConfig:
    """Return stock TRL's settings, without a limit of length."""
    return DPOConfig(max_length=None, use_cpu=True, report_to="none")
