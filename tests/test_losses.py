"""Values and properties of the losses of the margin, refusals by their text, the record, log-probabilities."""

import math
from dataclasses import replace

import pytest
import torch

from preftune.losses import catalogue, pairwise, scratch
from preftune.losses.logps import PairLogps, TokenLogps
from tests.losses import record

ZERO = torch.zeros(1)


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


def test_the_mean_log_probability_is_the_sum_over_the_completions_tokens_divided_by_them() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).expand(1, 4, 2)
    mean = scratch.mean_logps(logits, torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]]))
    assert mean.tolist() == pytest.approx([(math.log(1 / 4) + math.log(3 / 4)) / 2])


def test_the_first_token_of_a_sequence_is_predicted_by_nothing() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).expand(2, 2)
    each = scratch.token_logps(logits, torch.tensor([1, 1]), torch.tensor([1, 1]))
    assert each.tolist() == pytest.approx([math.log(3 / 4)])
    assert scratch.token_logps(logits, torch.tensor([1, 1]), torch.tensor([0, 0])).shape == (0,)


def test_the_values_at_a_token_are_those_worked_by_hand() -> None:
    policy = torch.tensor([0.0, math.log(3.0)]).expand(2, 4, 2)  # probabilities 1/4 and 3/4
    reference = torch.zeros(2, 4, 2)
    values = scratch.token_values(
        policy, reference, torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]]), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]])
    )
    assert values.policy.flatten().tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4), math.log(1 / 4), 0.0])
    assert values.reference.flatten().tolist() == pytest.approx([-math.log(2)] * 3 + [0.0])
    assert values.collision is not None
    assert values.kl is not None
    # log(1/16 + 9/16), and log(1/2 / 1/4) / 2 + log(1/2 / 3/4) / 2 = log(4/3) / 2
    assert values.collision.flatten().tolist() == pytest.approx([math.log(10 / 16)] * 3 + [0.0])
    assert values.kl.flatten().tolist() == pytest.approx([math.log(4 / 3) / 2] * 3 + [0.0])


def test_the_values_of_a_long_completion_are_those_of_its_tokens_one_by_one() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 1, 300, 7, dtype=torch.float64)
    ids, mask = torch.randint(7, (1, 300)), torch.arange(300)[None] >= 5
    values = scratch.token_values(policy, reference, ids, mask)
    p, r = (torch.distributions.Categorical(logits=logits[0, 4:-1]) for logits in (policy, reference))
    torch.testing.assert_close(values.policy[0], p.log_prob(ids[0, 5:]))
    torch.testing.assert_close(values.reference[0], r.log_prob(ids[0, 5:]))
    torch.testing.assert_close(values.kl, torch.distributions.kl_divergence(r, p)[None])
    torch.testing.assert_close(values.collision, p.probs.square().sum(dim=1).log()[None])
    torch.testing.assert_close(values.policy.sum(dim=1), scratch.completion_logps(policy, ids, mask))


def test_a_divergence_counts_no_token_that_the_reference_rules_out_and_moves_the_policy_alone() -> None:
    ruled_out = torch.tensor([0.0, 0.0, -math.inf]).expand(1, 2, 3)
    ids, mask = torch.tensor([[0, 1]]), torch.tensor([[0, 1]])
    for policy, expected in ((ruled_out, 0.0), (torch.zeros(1, 2, 3), math.log(3 / 2))):
        logits = policy.clone().requires_grad_()
        values = scratch.token_values(logits, ruled_out, ids, mask)
        assert values.kl is not None
        assert values.kl.item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(values.kl.sum(), logits)
        assert bool(gradient.isfinite().all())
        assert values.collision is not None
        assert not values.collision.requires_grad


def test_token_values_are_joined_to_the_widest_and_cut_from_the_graph() -> None:
    def tokens(width: int) -> TokenLogps:
        ones = torch.ones(1, width, requires_grad=True)
        return TokenLogps(ones, -ones, None, 2 * ones)

    def with_tokens(width: int) -> PairLogps:
        return replace(record(1.0, 0.0), chosen_tokens=tokens(width), rejected_tokens=tokens(1))

    joined = PairLogps.concatenate([with_tokens(2), with_tokens(3)]).detach()
    chosen, rejected = joined.tokens()
    assert chosen.policy.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert chosen.kl is not None
    assert chosen.kl.tolist() == [[2.0, 2.0, 0.0], [2.0, 2.0, 2.0]]
    assert (chosen.collision, rejected.reference.tolist()) == (None, [[-1.0], [-1.0]])
    assert not chosen.policy.requires_grad
    start = joined.at_reference().tokens()[0]
    assert start.policy.equal(chosen.reference)
    assert start.kl is not None
    assert not start.kl.any()


def test_a_record_without_token_values_is_refused_by_what_asks_for_them() -> None:
    with pytest.raises(ValueError, match="chosen_tokens and rejected_tokens must be set for this loss, got None"):
        replace(record(1.0, 0.0), rejected_tokens=None).tokens()


def test_sigmoid_falls_with_the_margin_and_a_pair_turned_round_costs_its_reward_more() -> None:
    margins = torch.linspace(-30, 30, 61, dtype=torch.float64)
    costs = pairwise.sigmoid(_at(margins), beta=0.2)
    assert bool((costs.diff() < 0).all())
    # -log sigma(-x) = x - log sigma(x)
    torch.testing.assert_close(costs.flip(0), 0.2 * margins + costs)


def test_smoothed_sigmoid_costs_least_at_the_log_odds_of_its_labels() -> None:
    margins = torch.linspace(0, 30, 3001, dtype=torch.float64)
    least = margins[pairwise.sigmoid(_at(margins), beta=0.2, label_smoothing=0.1).argmin()]
    assert least.item() == pytest.approx(math.log(0.9 / 0.1) / 0.2, abs=0.01)


def test_ipo_costs_the_same_on_either_side_of_its_target() -> None:
    away = torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)
    above, below = (pairwise.ipo(_at(2.0 + side), beta=0.25) for side in (away, -away))  # the target is 1 / 0.5
    torch.testing.assert_close(above, below)
    assert above.tolist() == [0.0, 1.0, 49.0]


def test_hinge_falls_by_beta_a_nat_up_to_its_reach_and_is_flat_beyond() -> None:
    margins = torch.tensor([-10.0, 0.0, 3.0, 5.0, 8.0], dtype=torch.float64)
    assert pairwise.hinge(_at(margins), beta=0.2).tolist() == pytest.approx([3.0, 1.0, 0.4, 0.0, 0.0])


def _at(margins: torch.Tensor) -> PairLogps:
    """Pairs of one-token answers with these margins, all of them chosen's."""
    zero, one = torch.zeros_like(margins), torch.ones_like(margins)
    return PairLogps(margins, zero, zero, zero, one, one)
