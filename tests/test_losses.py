"""Values worked by hand, the from-scratch losses beside ours, and every refusal by its text."""

import math

import pytest
import torch

from preftune.losses import catalogue, pairwise, scratch
from preftune.losses.logps import PairLogps

ZERO = torch.zeros(1)


def record(chosen: float, rejected: float, chosen_length: int = 2, rejected_length: int = 4) -> PairLogps:
    """One pair with the given log-ratios: the reference's log-probabilities are -3 and -5."""
    return PairLogps(
        torch.tensor([chosen - 3.0], dtype=torch.float64),
        torch.tensor([rejected - 5.0], dtype=torch.float64),
        torch.tensor([-3.0], dtype=torch.float64),
        torch.tensor([-5.0], dtype=torch.float64),
        torch.tensor([chosen_length]),
        torch.tensor([rejected_length]),
    )


@pytest.mark.parametrize(
    ("loss", "parameters", "logratios", "expected"),
    [
        # margin 0: log 2 whatever the arguments
        ("sigmoid", {"beta": 0.1}, (0.0, 0.0), math.log(2)),
        ("sigmoid", {"beta": 5.0, "label_smoothing": 0.3}, (1.0, 1.0), math.log(2)),
        # margin 2 - (-1) = 3, beta 0.5: -log sigma(1.5) = log(1 + e^-1.5) = 0.201413
        ("sigmoid", {"beta": 0.5}, (2.0, -1.0), 0.201413),
        # the same with smoothing 0.1: 0.9 * 0.201413 + 0.1 * (0.201413 + 1.5) = 0.351413
        ("sigmoid", {"beta": 0.5, "label_smoothing": 0.1}, (2.0, -1.0), 0.351413),
        # at the reference: 1 / (4 beta^2) = 25
        ("ipo", {"beta": 0.1}, (0.0, 0.0), 25.0),
        # per token 2/2 - (-1)/4 = 1.25, less 1/(2 * 0.5) = 1: squared 0.0625
        ("ipo", {"beta": 0.5}, (2.0, -1.0), 0.0625),
        ("hinge", {"beta": 0.1}, (0.0, 0.0), 1.0),
        # 1 - 0.1 * 3 = 0.7
        ("hinge", {"beta": 0.1}, (2.0, -1.0), 0.7),
        ("hinge", {"beta": 1.0}, (2.0, -1.0), 0.0),
    ],
)
def test_a_loss_has_the_value_worked_by_hand(
    loss: str, parameters: dict[str, float], logratios: tuple[float, float], expected: float
) -> None:
    ours, independent = catalogue.pair_loss(loss, parameters)
    assert ours(record(*logratios)).item() == pytest.approx(expected, abs=1e-6)
    assert independent(record(*logratios)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(catalogue.LOSSES))
def test_a_loss_equals_the_from_scratch_one_on_random_pairs(name: str) -> None:
    torch.manual_seed(0)
    values = [torch.randn(64, dtype=torch.float64) * 20 for _ in range(4)]
    lengths = [torch.randint(1, 50, (64,)) for _ in range(2)]
    ours, independent = catalogue.pair_loss(name, {"beta": 0.3})
    torch.testing.assert_close(ours(PairLogps(*values, *lengths)), independent(PairLogps(*values, *lengths)))


@pytest.mark.parametrize("name", sorted(catalogue.LOSSES))
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_a_loss_and_its_gradient_stay_finite_at_extreme_margins(name: str, margin: float) -> None:
    chosen = torch.tensor([margin], requires_grad=True)
    ours, _ = catalogue.pair_loss(name, {"beta": 0.5})
    one = torch.ones(1)
    loss = ours(PairLogps(chosen, ZERO, ZERO, ZERO, one, one)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert chosen.grad is not None
    assert torch.isfinite(chosen.grad).all()


@pytest.mark.parametrize("name", sorted(catalogue.LOSSES))
def test_the_gradient_equals_finite_differences(name: str) -> None:
    ours, _ = catalogue.pair_loss(name, {"beta": 0.3})
    reference = [torch.tensor([-3.0, -4.0], dtype=torch.float64), torch.tensor([-5.0, -2.0], dtype=torch.float64)]
    lengths = [torch.tensor([2, 3]), torch.tensor([4, 5])]
    policy = [
        torch.tensor([-2.5, -4.4], dtype=torch.float64, requires_grad=True),
        torch.tensor([-5.5, -1.4], dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(lambda c, r: ours(PairLogps(c, r, *reference, *lengths)), policy)


@pytest.mark.parametrize("name", sorted(catalogue.LOSSES))
@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(name: str, beta: float) -> None:
    with pytest.raises(ValueError, match=r"^beta must be above 0, got "):
        catalogue.LOSSES[name](record(1.0, 0.0), beta=beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_label_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"^label_smoothing must be at least 0 and below 0\.5, got "):
        pairwise.sigmoid(record(1.0, 0.0), beta=0.1, label_smoothing=smoothing)


def test_ipo_without_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="chosen_lengths and rejected_lengths must be set for this loss, got None"):
        pairwise.ipo(PairLogps(ZERO, ZERO, ZERO, ZERO), beta=0.1)


def test_the_record_at_the_reference_has_no_margin() -> None:
    assert record(2.0, -1.0).margin().item() == 3.0
    assert record(2.0, -1.0).at_reference().margin().item() == 0.0


def test_records_are_joined_in_order() -> None:
    joined = PairLogps.concatenate([record(1.0, 0.0), record(2.0, 0.0)])
    assert joined.chosen_logratio().tolist() == [1.0, 2.0]
    assert joined.lengths()[1].tolist() == [4, 4]


def test_log_probabilities_count_completion_tokens_alone() -> None:
    # Two tokens, logits (0, log 3): probabilities 1/4 and 3/4 at every position.
    logits = torch.tensor([0.0, math.log(3.0)]).expand(1, 4, 2)
    ids = torch.tensor([[0, 1, 0, 1]])
    # The completion is the last two tokens: log 1/4 + log 3/4. The last position's own logits predict nothing.
    total = scratch.completion_logps(logits, ids, torch.tensor([[0, 0, 1, 1]]))
    assert total.item() == pytest.approx(math.log(1 / 4) + math.log(3 / 4))


def test_a_token_is_predicted_by_the_logits_before_it() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, 1] = torch.tensor([0.0, math.log(3.0)])
    total = scratch.completion_logps(logits, torch.tensor([[0, 0, 1]]), torch.tensor([[0, 0, 1]]))
    assert total.item() == pytest.approx(math.log(3 / 4))
