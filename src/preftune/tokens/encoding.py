"""Dialogues to ids, many at once: rendering by the chat template, encoding, and the checks on every pair.

Both answers follow the same prompt. Its text is encoded once, up to the last control token that the template writes
before the answer: what stands on the two sides of a control token is encoded independently, unless another added token
may reach over it. Each batch holds a pair against an encoding of the whole text.
"""

import functools
from collections.abc import Iterator, Sequence

import jinja2

from preftune.data.rendered import TEMPLATES
from preftune.models.tokenizer import ChatTokenizer
from preftune.pairs import Message, PreferencePair
from preftune.refusals import Refusal
from preftune.tokens.words import Words

Ids = tuple[list[int], list[int], list[int]]
Texts = tuple[str, str, str]  # prompt; prompt and chosen; prompt and rejected
Turns = list[Message]


def control_tokens(chat: ChatTokenizer) -> list[str]:
    """Return what must not stand in the text of a row: special tokens, and the markers that the template writes."""
    special = {token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.special}
    written = {marker for template in TEMPLATES for marker in template.markers}
    return sorted(special | {marker for marker in written if marker in str(chat.tokenizer.chat_template)})


class Encoder:
    """Renders and encodes dialogues with one tokenizer."""

    def __init__(self, chat: ChatTokenizer) -> None:
        self.chat = chat
        tokenizer = chat.tokenizer
        self.end = tokenizer.convert_tokens_to_ids(chat.end_of_turn)
        bos = tokenizer.bos_token_id
        self.bos = bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None
        tokens = list(tokenizer.added_tokens_decoder.values())
        self._separators = [
            token.content for token in tokens if token.special and not (token.single_word or token.normalized)
        ]
        # A token that takes the space on its left begins further left than its text does.
        self._reach = "".join(f"{token.content if token.lstrip else token.content[1:]}\0" for token in tokens)
        self._blank: dict[tuple[int, ...], bool] = {(): True}

    def render(self, dialogues: list[Turns], *, add_generation_prompt: bool) -> list[str]:
        """Return the texts that the chat template makes of dialogues."""
        return self.chat.tokenizer.apply_chat_template(  # type: ignore[return-value]
            dialogues,  # type: ignore[arg-type]
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of rendered texts, to which nothing is added."""
        if self._words is None:
            return self.encode_afresh(texts)
        return self._words.encode(texts)

    def encode_afresh(self, texts: list[str]) -> list[list[int]]:
        """Return what `encode` does, from the tokenizer alone."""
        ids: list[list[int]] = self.chat.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    @functools.cached_property
    def _words(self) -> Words | None:
        backend = getattr(self.chat.tokenizer, "backend_tokenizer", None)
        return None if backend is None else Words(backend)

    def pairs(self, pairs: Sequence[PreferencePair]) -> Iterator[Ids | str]:
        """Yield the ids of each pair's prompt, chosen and rejected answer; or what is wrong with it.

        A pair is wrong where the template cannot render it, where the prompt's ids are no prefix of prompt and answer,
        or where an answer does not end in the end-of-turn token.

        Raises:
            Refusal: BOS does not stand once at the start.
        """
        rendered = self._texts(pairs)
        texts = [text for text in rendered if not isinstance(text, str)]
        encoded = self._encoded(texts)
        for text in rendered:
            yield text if isinstance(text, str) else self._checked(next(encoded), text)

    def _encoded(self, texts: list[Texts]) -> Iterator[list[list[int]]]:
        """Yield the ids of prompt, prompt and chosen, prompt and rejected."""
        if not texts:
            return
        cuts = self._cuts(texts)
        parts = [
            part for text, cut in zip(texts, cuts, strict=True) for part in (text[0][:cut], *(t[cut:] for t in text))
        ]
        encoded = self.encode(parts)
        sample = next((place for place, cut in enumerate(cuts) if cut), 0)
        if _joined(encoded, sample) != self.encode_afresh(list(texts[sample])):
            encoded = self.encode_afresh([part for text in texts for part in ("", *text)])
        yield from (_joined(encoded, place) for place in range(len(texts)))

    def _texts(self, pairs: Sequence[PreferencePair]) -> list[Texts | str]:
        try:
            return list(self._rendered(pairs))
        except jinja2.TemplateError as error:
            if len(pairs) > 1:
                return [self._texts([pair])[0] for pair in pairs]
            roles = ", ".join(turn["role"] for turn in pairs[0].prompt)
            return [f"the chat template must render the turns {roles}, got {error}"]

    def _rendered(self, pairs: Sequence[PreferencePair]) -> Iterator[Texts]:
        def dialogues(answers: list[str]) -> list[Turns]:
            return [
                [*pair.prompt, Message(role="assistant", content=answer)]
                for pair, answer in zip(pairs, answers, strict=True)
            ]

        prompts = self.render([list(pair.prompt) for pair in pairs], add_generation_prompt=True)
        answers = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
        chosen, rejected = (self.render(dialogues(each), add_generation_prompt=False) for each in answers)
        return zip(prompts, chosen, rejected, strict=True)

    def _cuts(self, texts: list[Texts]) -> list[int]:
        """Return where each text begins to be encoded for every answer anew."""
        written = [token for token in self._separators if token in texts[0][0] and self._stands_alone(token)]
        last = max(written, key=texts[0][0].rfind, default=None)
        if last is None:
            return [0] * len(texts)
        cuts = [max(0, prompt.rfind(last)) for prompt, _, _ in texts]
        return [
            cut if chosen.startswith(prompt[:cut]) and rejected.startswith(prompt[:cut]) else 0
            for cut, (prompt, chosen, rejected) in zip(cuts, texts, strict=True)
        ]

    def _stands_alone(self, token: str) -> bool:
        """Return whether no added token that begins further left may hold `token`, or the first part of it."""
        held = token in self._reach or any(f"{token[:end]}\0" in self._reach for end in range(1, len(token)))
        return not (held or token[0].isspace() or token[0].isalnum() or token[0] == "_")

    def _checked(self, ids: list[list[int]], texts: Texts) -> Ids | str:
        prompt, chosen, rejected = ids
        self._check_bos(prompt)
        for answer in (chosen, rejected):
            if answer[: len(prompt)] != prompt:
                return _no_prefix(texts)
            if not self._ends(answer[len(prompt) :]):
                shown = self.chat.tokenizer.decode(answer[-8:])
                return (
                    f"an answer must end in {self.chat.end_of_turn} under this chat template, got {shown!r}; set "
                    "model.end_of_turn to the token that ends the assistant's turn"
                )
        return prompt, chosen[len(prompt) :], rejected[len(prompt) :]

    def _ends(self, answer: list[int]) -> bool:
        if self.end not in answer:
            return False
        after = tuple(answer[len(answer) - answer[::-1].index(self.end) :])
        if after not in self._blank:
            self._blank[after] = not str(self.chat.tokenizer.decode(list(after))).strip()
        return self._blank[after]

    def _check_bos(self, ids: list[int]) -> None:
        if self.bos is None:
            return
        leading = next((place for place, token in enumerate(ids) if token != self.bos), len(ids))
        if leading != 1:
            raise Refusal(
                f"a dialogue must begin with exactly one {self.chat.tokenizer.bos_token}, got {leading}; the chat "
                "template and the tokenizer disagree: set model.chat_template to one that writes it once"
            )


def _no_prefix(texts: Texts) -> str:
    reason = "template renders the prompt alone differently; set model.chat_template to one that does not"
    if all(text.startswith(texts[0]) for text in texts):
        reason = (
            "answer's beginning merges with the prompt's end; take the white space off the answer, or set "
            "model.chat_template to one that trims it"
        )
    return f"the prompt's tokens must be a prefix of prompt and answer under this chat template, but the {reason}"


def _joined(encoded: list[list[int]], place: int) -> list[list[int]]:
    """Return the ids of prompt, prompt and chosen, prompt and rejected of the pair at `place`."""
    head, *tails = encoded[4 * place : 4 * place + 4]
    return [head + tail for tail in tails]
