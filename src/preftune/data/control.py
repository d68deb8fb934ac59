"""Control tokens of a tokenizer inside the text of a row: found, and broken up where asked."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from preftune.data.rows import RowError, shown
from preftune.pairs import Message, PreferencePair

Policy = Literal["refuse", "escape", "allow"]


class Control:
    """What becomes of control tokens in the text of a pair.

    Args:
        tokens: As they are written. A tokenizer reads each of them as one token, wherever it stands.
        policy: `refuse` the pair, `escape` by a space after the first character, or `allow`.
    """

    def __init__(self, tokens: Sequence[str], policy: Policy) -> None:
        self.policy = policy
        longest_first = sorted(tokens, key=len, reverse=True)
        self._beginnings = {token[:2] for token in tokens} if policy != "allow" else set()
        self._token = re.compile("|".join(map(re.escape, longest_first)))
        self._unbreakable = {token for token in tokens if self._token.search(_broken(token))}

    def settled(self, pair: PreferencePair) -> PreferencePair:
        """Return `pair` itself, or a copy whose control tokens are broken up.

        Raises:
            RowError: A text holds a control token, and the policy is to refuse it.
        """
        prompt = self.prompt(pair.prompt)
        chosen, rejected = self.text(pair.chosen, "chosen"), self.text(pair.rejected, "rejected")
        if (prompt, chosen, rejected) == (pair.prompt, pair.chosen, pair.rejected):
            return pair
        return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)

    def prompt(self, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the turns of a prompt, each as `text` returns its content."""
        return tuple(
            Message(role=turn["role"], content=self.text(turn["content"], f"prompt[{place}].content"))
            for place, turn in enumerate(turns)
        )

    def text(self, text: str, field: str) -> str:
        """Return `text` itself, or with its control tokens broken up.

        Raises:
            RowError: It holds a control token, and the policy is to refuse it or the token cannot be broken up.
        """
        if not any(beginning in text for beginning in self._beginnings):
            return text
        found = self._token.search(text)
        if found and self.policy == "refuse":
            around = text[max(0, found.start() - 12) : found.end() + 12]
            raise RowError(
                f"{field} must hold no control token of the tokenizer, got {found[0]!r} in {shown(around)}; "
                "data.control_tokens=escape breaks it up"
            )
        while found:  # of two that overlap, breaking one may leave the other
            if found[0] in self._unbreakable:
                raise RowError(f"{field} must hold no control token that cannot be broken up, got {found[0]!r}")
            text = self._token.sub(lambda match: _broken(match[0]), text)
            found = self._token.search(text)
        return text


def _broken(token: str) -> str:
    return f"{token[0]} {token[1:]}"
