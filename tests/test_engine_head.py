"""Scores of the next token by chunks: TRL's numbers, and the gradient of the plain computation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from trl.kernels.chunked_logprob import OPTIONAL_OUTPUTS
from trl.trainer.utils import _ChunkedLogProbFunction

from preftune.engine import head
from preftune.engine.head import score

TOKENS, WIDTH, VOCABULARY = 11, 6, 9


@pytest.fixture(autouse=True)
def three_rows_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tokens fall into four chunks, the last of two."""
    monkeypatch.setitem(head.CHUNK, "cpu", 3 * 4 * VOCABULARY)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """Return a head, hidden states, labels, and the slope of a loss at each log-probability."""
    torch.manual_seed(0)
    made = nn.Linear(WIDTH, VOCABULARY, dtype=dtype)
    hidden = (2 * torch.randn(TOKENS, WIDTH)).to(dtype).requires_grad_()
    return made, hidden, torch.arange(TOKENS) % VOCABULARY, torch.randn(TOKENS).to(dtype)


def capped(made: nn.Linear) -> head.Head:
    return lambda hidden: 2 * torch.tanh(made(hidden) / 2)


@pytest.mark.parametrize("softcap", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_log_probabilities_and_gradients_are_those_of_the_plain_computation(trained: bool, softcap: bool) -> None:
    made, hidden, labels, slopes = drawn()
    made.requires_grad_(trained)
    logits = capped(made) if softcap else made
    plain = logits(hidden).log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    ours = score(logits, hidden, labels, trained=trained, metrics=True, collision=True).log_probs
    assert_close(ours, plain, rtol=1e-12, atol=0)
    moving = [hidden, *(made.parameters() if trained else [])]
    for got, expected in zip(
        torch.autograd.grad(ours, moving, slopes), torch.autograd.grad(plain, moving, slopes), strict=True
    ):
        assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("way", ["trained", "slopes kept", "without gradient"])
def test_every_way_measures_what_trl_measures(way: str) -> None:
    made, hidden, labels, _ = drawn(torch.float32)
    arguments = (hidden, made.weight, made.bias, labels, 1.0, 4, None, 1.0, OPTIONAL_OUTPUTS)
    log_probs, *others = _ChunkedLogProbFunction.apply(*arguments)
    names = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
    with torch.set_grad_enabled(way != "without gradient"):
        ours = score(made, hidden, labels, trained=way == "trained", metrics=True, collision=True)
    assert_close(ours.log_probs, log_probs, rtol=1e-6, atol=1e-6)
    for name, expected in zip(names, others, strict=True):
        got = getattr(ours, name)
        assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert not got.requires_grad
    assert 0 < ours.is_top1.sum() < TOKENS
    assert ours.log_probs.requires_grad == (way != "without gradient")


@pytest.mark.parametrize("trained", [False, True])
def test_what_is_not_asked_for_is_not_measured(trained: bool) -> None:
    made, hidden, labels, _ = drawn()
    ours = score(made, hidden, labels, trained=trained, metrics=False, collision=False)
    assert (ours.entropy, ours.mean_logits, ours.is_top1, ours.log_sum_sq_probs) == (None,) * 4


@pytest.mark.parametrize("trained", [False, True])
def test_no_more_logits_are_made_at_once_than_a_chunk_holds(trained: bool) -> None:
    made, hidden, labels, slopes = drawn()
    widths: list[int] = []

    def counted(states: Tensor) -> Tensor:
        widths.append(len(states))
        return made(states)

    score(counted, hidden, labels, trained=trained, metrics=True, collision=False).log_probs.backward(slopes)
    again = [3, 3, 3, 2] if trained else []  # the chunks of a head that trains are computed once more
    assert widths[:5] == [1, 3, 3, 3, 2]
    assert sorted(widths[5:]) == sorted(again)


@pytest.mark.parametrize("trained", [False, True])
def test_logits_of_few_bits_are_widened_before_they_are_normalised(trained: bool) -> None:
    made, hidden, labels, slopes = drawn(torch.bfloat16)
    plain = made(hidden).float().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    ours = score(made, hidden, labels, trained=trained, metrics=False, collision=False).log_probs
    assert ours.dtype == torch.float32
    assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    got, expected = (torch.autograd.grad(each, hidden, slopes.float())[0] for each in (ours, plain))
    assert got.dtype == torch.bfloat16
    assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_a_token_whose_loss_is_flat_moves_nothing() -> None:
    made, hidden, labels, _ = drawn()
    flat: Any = torch.zeros(TOKENS, dtype=torch.float64)
    log_probs = score(made, hidden, labels, trained=False, metrics=False, collision=False).log_probs
    assert not torch.autograd.grad(log_probs, hidden, flat)[0].any()
