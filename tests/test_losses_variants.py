"""The losses of `variants` and `pointwise`: values worked by hand, a property of each, and every refusal by its text.

`test_losses.py` walks the whole catalogue: its gradients, and its values beside the from-scratch ones.
"""

import math

import pytest
import torch
from torch import Tensor

from preftune.losses import catalogue, pairwise, pointwise, variants
from preftune.losses.logps import PairLogps

NAMES = ["apo_down", "apo_zero", "bco_pair", "discopop", "exo_pair", "nca_pair", "robust", "sigmoid_norm", "sppo_hard"]


def record(chosen: Tensor, rejected: Tensor, chosen_length: int = 2, rejected_length: int = 4) -> PairLogps:
    """Pairs with the given log-ratios: the reference's log-probabilities are -3 and -5."""
    minus_three, minus_five = torch.full_like(chosen, -3.0), torch.full_like(rejected, -5.0)
    lengths = torch.full_like(chosen, chosen_length), torch.full_like(rejected, rejected_length)
    return PairLogps(chosen - 3.0, rejected - 5.0, minus_three, minus_five, *lengths)


def one(chosen: float, rejected: float) -> PairLogps:
    """One pair with the given log-ratios."""
    return record(torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64))


def line(low: float, high: float, count: int = 201) -> Tensor:
    """Log-ratios at even steps."""
    return torch.linspace(low, high, count, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "parameters", "logratios", "expected"),
    [
        # margin 0: (0.7 log 2 - 0.3 log 2) / 0.4 = log 2
        ("robust", {"beta": 5.0, "label_smoothing": 0.3}, (1.0, 1.0), math.log(2)),
        # margin 3, beta 0.5: -log sigma(1.5) = log(1 + e^-1.5) = 0.201413, -log sigma(-1.5) = 1.701413
        ("robust", {"beta": 0.5, "label_smoothing": 0.0}, (2.0, -1.0), 0.201413),
        # (0.9 * 0.201413 - 0.1 * 1.701413) / 0.8 = (0.181272 - 0.170141) / 0.8 = 0.013913
        ("robust", {"beta": 0.5, "label_smoothing": 0.1}, (2.0, -1.0), 0.013913),
        # the pair the other way: (0.9 * 1.701413 - 0.1 * 0.201413) / 0.8 = 1.511131 / 0.8 = 1.888913
        ("robust", {"beta": 0.5, "label_smoothing": 0.1}, (-1.0, 2.0), 1.888913),
        # q = 1/2: -log 2 - (log 0.999 + log 0.001) / 2 = -0.693147 + (0.001001 + 6.907755) / 2 = 2.761231
        ("exo_pair", {"beta": 0.1, "label_smoothing": 0.001}, (0.0, 0.0), 2.761231),
        # beta h = log 3: q = 3/4. label 3/4, 1/4: the two agree and the pair costs nothing
        ("exo_pair", {"beta": 0.5, "label_smoothing": 0.25}, (math.log(3), -math.log(3)), 0.0),
        # the pair the other way, q = 1/4: 1/4 log(1/3) + 3/4 log 3 = log(3) / 2 = 0.549306
        ("exo_pair", {"beta": 0.5, "label_smoothing": 0.25}, (-math.log(3), math.log(3)), 0.549306),
        # w = 1/2: (log 2 + 1) / 2 = 0.846574
        ("discopop", {"beta": 0.1, "tau": 0.05}, (0.0, 0.0), 0.846574),
        # beta h = log 3, tau 1: w = 3/4. log(4/3) / 4 + 3/4 * 1/3 = 0.071921 + 0.25 = 0.321921
        ("discopop", {"beta": 0.5, "tau": 1.0}, (math.log(3), -math.log(3)), 0.321921),
        # tau 0.5: w = sigma(2 log 3) = 9/10. 0.287682 / 10 + 9/10 * 1/3 = 0.328768
        ("discopop", {"beta": 0.5, "tau": 0.5}, (math.log(3), -math.log(3)), 0.328768),
        ("sigmoid_norm", {"beta": 5.0}, (0.0, 0.0), math.log(2)),
        # per token 2/2 - (-1)/4 = 1.25, beta 2: log(1 + e^-2.5) = log 1.082085 = 0.078889
        ("sigmoid_norm", {"beta": 2.0}, (2.0, -1.0), 0.078889),
        # 2 log 2
        ("nca_pair", {"beta": 0.1}, (0.0, 0.0), 1.386294),
        # rewards log 3 and -log 3: log(4/3) + log(4) / 2 + log(4/3) / 2 = 0.287682 + 0.693147 + 0.143841
        ("nca_pair", {"beta": 0.5}, (2 * math.log(3), -2 * math.log(3)), 1.124670),
        # rewards -log 3 and 0: log 4 + log(4/3) / 2 + log(2) / 2 = 1.386294 + 0.143841 + 0.346574
        ("nca_pair", {"beta": 1.0}, (-math.log(3), 0.0), 1.876709),
        # 2 log 2
        ("bco_pair", {"beta": 0.1}, (0.0, 0.0), 1.386294),
        # rewards log 3 and -log 3: 2 log(4/3)
        ("bco_pair", {"beta": 0.5}, (2 * math.log(3), -2 * math.log(3)), 0.575364),
        # rewards -log 3 and 0: log 4 + log 2
        ("bco_pair", {"beta": 1.0}, (-math.log(3), 0.0), 2.079442),
        # 2 * (1 / 0.2)^2 = 50
        ("sppo_hard", {"beta": 0.1}, (0.0, 0.0), 50.0),
        # targets +-1: (2 - 1)^2 + (-3 + 1)^2 = 5
        ("sppo_hard", {"beta": 0.5}, (2.0, -3.0), 5.0),
        ("apo_zero", {"beta": 0.1}, (0.0, 0.0), 1.0),
        # rewards log 3 and -log 4: 1 - 3/4 + 1/5 = 0.45
        ("apo_zero", {"beta": 0.5}, (2 * math.log(3), -2 * math.log(4)), 0.45),
        ("apo_down", {"beta": 0.1}, (0.0, 0.0), 1.0),
        # rewards -log 3 and -log 12, gap log 4: 1/4 + 1 - 4/5 = 0.45
        ("apo_down", {"beta": 0.5}, (-2 * math.log(3), -2 * math.log(12)), 0.45),
    ],
)
def test_a_loss_has_the_value_worked_by_hand(
    loss: str, parameters: dict[str, float], logratios: tuple[float, float], expected: float
) -> None:
    for function in catalogue.pair_loss(loss, parameters):
        assert function(one(*logratios)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("logratios", [(1e4, 0.0), (-1e4, 0.0), (0.0, 1e4), (0.0, -1e4), (1e4, 1e4), (-1e4, -1e4)])
def test_extreme_log_ratios_of_one_token_answers_cost_a_finite_amount(
    name: str, logratios: tuple[float, float]
) -> None:
    policy = [torch.tensor([number], requires_grad=True) for number in logratios]
    zero, token = torch.zeros(1), torch.ones(1)
    ours, independent = catalogue.pair_loss(name, {"beta": 0.5})
    pair = PairLogps(*policy, zero, zero, token, token)
    ours(pair).sum().backward()
    torch.testing.assert_close(ours(pair).double(), independent(pair), rtol=1e-5, atol=1e-6)
    assert all(number.grad is not None and bool(torch.isfinite(number.grad).all()) for number in policy)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_both_answers_equals_finite_differences_wherever_it_is_taken(name: str) -> None:
    torch.manual_seed(0)
    policy = [(torch.randn(12, dtype=torch.float64) * 4).requires_grad_() for _ in range(2)]
    for beta in (0.05, 1.0):
        ours, _ = catalogue.pair_loss(name, {"beta": beta})
        assert torch.autograd.gradcheck(lambda c, r, ours=ours: ours(record(c, r)), policy)


@pytest.mark.parametrize(("tau", "rises"), [(0.102, True), (0.103, False)])
def test_discopop_raises_margins_from_the_reference_for_a_tau_that_is_wide_enough(tau: float, rises: bool) -> None:
    # the slope (1 - log 2) / (4 tau) - 3/4 is 0 at tau = 0.306853 / 3 = 0.102284
    margin, zero = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)
    variants.discopop(record(margin, zero), beta=1.0, tau=tau).sum().backward()
    assert margin.grad is not None
    assert (margin.grad.item() > 0) is rises


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_treats_each_pair_alone(name: str) -> None:
    ours, _ = catalogue.pair_loss(name, {"beta": 0.3})
    chosen, rejected = line(-5, 5, 11), line(4, -2, 11)
    together = ours(record(chosen, rejected))
    torch.testing.assert_close(ours(record(chosen.flip(0), rejected.flip(0))), together.flip(0), rtol=0, atol=0)
    assert together.shape == (11,)


@pytest.mark.parametrize("share", [0.1, 0.45])
def test_robust_averaged_over_flipped_labels_is_the_dpo_loss_on_true_ones(share: float) -> None:
    a, b = line(-30, 30), line(7, -7)
    kept = variants.robust(record(a, b), beta=0.3, label_smoothing=share)
    flipped = variants.robust(record(b, a), beta=0.3, label_smoothing=share)
    clean = pairwise.sigmoid(record(a, b), beta=0.3)
    torch.testing.assert_close((1 - share) * kept + share * flipped, clean)


def test_robust_falls_below_zero_without_bound() -> None:
    costs = variants.robust(record(line(0, 1000), torch.zeros(201, dtype=torch.float64)), beta=1.0)
    # far out each nat of margin saves 0.1 / 0.8 nats
    assert (costs[-1] - costs[-2]).item() == pytest.approx(-5 * 0.125)
    assert bool((costs.diff() < 0).all())


def test_exo_pair_costs_nothing_at_one_margin_and_more_on_either_side() -> None:
    margins = math.log(0.9 / 0.1) + line(-5, 5)
    costs = variants.exo_pair(record(margins, torch.zeros_like(margins)), beta=1.0, label_smoothing=0.1)
    assert costs[100].item() == pytest.approx(0.0, abs=1e-12)
    assert bool((costs[:101].diff() < 0).all())
    assert bool((costs[100:].diff() > 0).all())


def test_discopop_is_logistic_for_pairs_ranked_wrongly_and_exponential_for_the_rest() -> None:
    margins, zero = line(1, 20), torch.zeros(201, dtype=torch.float64)
    rightly = variants.discopop(record(margins, zero), beta=1.0, tau=0.05)
    wrongly = variants.discopop(record(zero, margins), beta=1.0, tau=0.05)
    torch.testing.assert_close(rightly, torch.exp(-margins), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(wrongly, pairwise.sigmoid(record(zero, margins), beta=1.0), rtol=1e-7, atol=1e-8)


def test_discopop_lowers_margins_from_the_reference_into_a_valley_and_raises_those_beyond_a_ridge() -> None:
    margins = line(-1, 1, 2001).requires_grad_()
    costs = variants.discopop(record(margins, torch.zeros(2001, dtype=torch.float64)), beta=1.0, tau=0.05)
    (slope,) = torch.autograd.grad(costs.sum(), margins)
    # at 0: w' (1 - log 2) + w (-1/2) + w (-1) with w = 1/2 and w' = 1/4 / 0.05: 5 * 0.306853 - 0.75 = 0.784264
    assert slope[1000].item() == pytest.approx(0.784264, abs=1e-6)
    turns = [place for place in range(2000) if slope[place].sign() != slope[place + 1].sign()]
    assert [round(margins[place].item(), 3) for place in turns] == [-0.119, 0.072]
    assert costs[turns[0]].item() == pytest.approx(0.786, abs=1e-3)


def test_sigmoid_norm_takes_log_ratios_per_token() -> None:
    a, b = line(-30, 30), line(7, -7)
    costs = variants.sigmoid_norm(record(a, b, 3, 5), beta=0.3)
    torch.testing.assert_close(costs, variants.sigmoid_norm(record(10 * a, 10 * b, 30, 50), beta=0.3))
    torch.testing.assert_close(
        variants.sigmoid_norm(record(a, b, 1, 1), beta=0.3), pairwise.sigmoid(record(a, b), beta=0.3)
    )


def test_nca_pair_draws_chosen_to_a_reward_of_log_two_and_always_lowers_rejected() -> None:
    around, zero = math.log(2) + line(-5, 5), torch.zeros(201, dtype=torch.float64)
    chosen = pointwise.nca_pair(record(2 * around, zero), beta=0.5)
    assert bool((chosen[:101].diff() < 0).all())
    assert bool((chosen[100:].diff() > 0).all())
    assert bool((pointwise.nca_pair(record(zero, around), beta=0.5).diff() > 0).all())


def test_bco_pair_is_never_below_dpo_and_the_same_with_both_answers_negated_and_exchanged() -> None:
    a, b = line(-30, 30), line(7, -7)
    costs = pointwise.bco_pair(record(a, b), beta=0.3)
    assert bool((costs > pairwise.sigmoid(record(a, b), beta=0.3)).all())
    torch.testing.assert_close(costs, pointwise.bco_pair(record(-b, -a), beta=0.3))
    assert bool((pointwise.bco_pair(record(a, torch.zeros_like(a)), beta=0.3).diff() < 0).all())
    assert bool((pointwise.bco_pair(record(torch.zeros_like(a), a), beta=0.3).diff() > 0).all())


def test_sppo_hard_is_zero_at_its_targets_and_the_same_with_both_answers_negated_and_exchanged() -> None:
    a, b = line(-30, 30), line(7, -7)
    torch.testing.assert_close(
        pointwise.sppo_hard(record(a, b), beta=0.3), pointwise.sppo_hard(record(-b, -a), beta=0.3)
    )
    assert pointwise.sppo_hard(one(5.0, -5.0), beta=0.1).item() == 0.0


def test_apo_zero_raises_chosen_and_lowers_rejected_within_zero_and_two() -> None:
    a, b = line(-30, 30), line(-7, 7)
    assert bool((pointwise.apo_zero(record(a, a[100:101].expand(201)), beta=0.3).diff() < 0).all())
    assert bool((pointwise.apo_zero(record(a[100:101].expand(201), a), beta=0.3).diff() > 0).all())
    costs = pointwise.apo_zero(record(a, b), beta=0.3)
    torch.testing.assert_close(costs + pointwise.apo_zero(record(-a, -b), beta=0.3), torch.full_like(a, 2.0))
    assert bool(((costs > 0) & (costs < 2)).all())


def test_apo_down_lowers_both_answers_at_one_margin_and_rejected_more() -> None:
    both = line(-20, 20)
    assert bool((pointwise.apo_down(record(both, both - 2), beta=0.3).diff() > 0).all())
    assert bool((pointwise.apo_down(record(torch.zeros_like(both), both), beta=0.3).diff() > 0).all())


def test_apo_down_leaves_chosen_alone_at_the_reference() -> None:
    policy = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    slopes = torch.autograd.grad(pointwise.apo_down(record(*policy), beta=0.4).sum(), policy)
    # beta / 4 - beta / 4 on chosen; beta / 4 on rejected
    assert [slope.item() for slope in slopes] == pytest.approx([0.0, 0.1])


@pytest.mark.parametrize("share", [-0.1, 0.5, math.nan])
def test_robust_refuses_a_share_of_flipped_labels_outside_its_range(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^label_smoothing must be at least 0 and below 0\.5, got {share}$"):
        variants.robust(one(1.0, 0.0), beta=0.1, label_smoothing=share)


@pytest.mark.parametrize("share", [0.0, 0.5, math.nan])
def test_exo_pair_refuses_a_label_without_doubt(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^label_smoothing must be above 0 and below 0\.5, got {share}$"):
        variants.exo_pair(one(1.0, 0.0), beta=0.1, label_smoothing=share)


@pytest.mark.parametrize("tau", [0.0, 1.01, math.nan])
def test_discopop_refuses_a_tau_outside_its_range(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"^tau must be above 0 and at most 1, got {tau}$"):
        variants.discopop(one(1.0, 0.0), beta=0.1, tau=tau)


def test_sigmoid_norm_without_lengths_is_refused() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^chosen_lengths and rejected_lengths must be set for this loss, got None$"):
        variants.sigmoid_norm(PairLogps(zero, zero, zero, zero), beta=0.1)
