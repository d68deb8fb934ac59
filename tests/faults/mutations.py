"""Deliberate faults: each changes one place of the code that trains, as a slip of the hand would."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

Alarm = Literal["scratch", "parity", "run", "engine"]


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: The fault in words.
        module: Where it is made, below `preftune`.
        text: What is replaced; it stands there exactly once.
        replacement: What stands there instead.
        alarm: What must catch it.
        on: What the alarm tries when it does: a loss or comparison by name, or a scene of a run.
        says: What the alarm says then.
    """

    name: str
    module: str
    text: str
    replacement: str
    alarm: Alarm
    on: str
    says: str


@contextmanager
def planted(module: str, text: str, replacement: str) -> Iterator[None]:
    """Let the functions of a module of preftune run as if `replacement` stood for `text` in its source.

    Their code objects change and nothing else, so that everyone who imported them meets the fault.

    Raises:
        AssertionError: `text` does not stand there exactly once, or no function changes with it.
    """
    original = importlib.import_module(f"preftune.{module}")
    source = inspect.getsource(original)
    assert source.count(text) == 1, f"{text!r} stands in {module} {source.count(text)} times"
    changed = dict(vars(original))
    exec(compile(source.replace(text, replacement), str(original.__file__), "exec"), changed)
    faulty = _functions(changed)
    kept = [
        (function, function.__code__)
        for name, function in _functions(vars(original)).items()
        if function.__code__ != faulty[name].__code__
    ]
    assert kept, f"no function of {module} changes"
    for function, _ in kept:
        function.__code__ = faulty[function.__qualname__].__code__
    try:
        yield
    finally:
        for function, code in kept:
            function.__code__ = code


def _functions(namespace: Mapping[str, Any]) -> dict[str, FunctionType]:
    """Return the functions and methods that a module defines, by their qualified names."""
    held = [vars(value).values() if isinstance(value, type) else [value] for value in namespace.values()]
    found = [inspect.unwrap(member) for members in held for member in members if callable(member)]
    here = namespace["__name__"]
    return {each.__qualname__: each for each in found if isinstance(each, FunctionType) and each.__module__ == here}


def _of(alarm: Alarm, module: str, *rows: tuple[str, str, str, str, str]) -> list[Mutation]:
    """Return mutations of one module: name, what the alarm is tried on, what it says, text and replacement."""
    return [Mutation(name, module, text, replacement, alarm, on, says) for name, on, says, text, replacement in rows]


def _scratch(module: str, *rows: tuple[str, str, str, str]) -> list[Mutation]:
    return _of("scratch", f"losses.{module}", *((name, on, on, *texts) for name, on, *texts in rows))  # type: ignore[misc]


def _parity(module: str, *rows: tuple[str, str, str, str]) -> list[Mutation]:
    return _of("parity", module, *((name, on, on, *texts) for name, on, *texts in rows))  # type: ignore[misc]


def _run(module: str, *rows: tuple[str, str, str, str, str]) -> list[Mutation]:
    return _of("run", f"training.{module}", *rows)


def _labels(instead: str) -> str:
    """Return the call of the model with other labels: ids where a token counts, -100 elsewhere."""
    return f"self.model(labels={instead}, **inputs)"


def _shared(module: str, *rows: tuple[str, str, str, str, str]) -> list[Mutation]:
    return _of("run", f"engine.{module}", *rows)


def _engine(module: str, *rows: tuple[str, str, str, str]) -> list[Mutation]:
    return _of("engine", module, *((name, on, on, *texts) for name, on, *texts in rows))  # type: ignore[misc]


_PER_TOKEN = "logps.chosen_logratio() / chosen_lengths - logps.rejected_logratio() / rejected_lengths"
_SMOOTHED = "-(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)"
_SMOOTHED_WRONG = "-(1 - label_smoothing) * F.logsigmoid(-h) - label_smoothing * F.logsigmoid(h)"
_SUMS = "*policy.outputs.log_probs.sum(dim=1).chunk(2), *reference.outputs.log_probs.sum(dim=1).chunk(2)"
_OF_POLICY, _OF_REFERENCE = "the log-probability of the policy's", "the log-probability of the reference's"
_GRADIENT_NORM = "the gradient norm must be"
_DIRECTION = "the gradient must point where the one computed from scratch points"
_THREE_WAYS = "the loss must be the same 3 ways"

MUTATIONS = [
    *_scratch(
        "pairwise",
        ("beta squared", "sigmoid", "h = beta * logps.margin()", "h = beta**2 * logps.margin()"),
        ("label smoothing dropped", "sigmoid", _SMOOTHED, "-F.logsigmoid(h)"),
        ("label smoothing to the wrong side", "sigmoid", _SMOOTHED, _SMOOTHED_WRONG),
        ("ipo without its length norm", "ipo", _PER_TOKEN, "logps.margin()"),
        ("ipo with twice its target", "ipo", "(per_token - 1 / (2 * beta))", "(per_token - 1 / beta)"),
        ("hinge with its sign flipped", "hinge", "torch.relu(1 - beta", "torch.relu(1 + beta"),
    ),
    *_scratch(
        "variants",
        (
            "the lengths of chosen and rejected exchanged",
            "sigmoid_norm",
            _PER_TOKEN,
            "logps.chosen_logratio() / rejected_lengths - logps.rejected_logratio() / chosen_lengths",
        ),
        ("robust adds the flipped label", "robust", "as_labelled - label_smoothing", "as_labelled + label_smoothing"),
        ("discopop without tau", "discopop", "F.sigmoid(-h / tau)", "F.sigmoid(-h)"),
    ),
    *_scratch(
        "pointwise",
        ("nca raises rejected", "nca_pair", "0.5 * F.logsigmoid(-rejected)", "0.5 * F.logsigmoid(rejected)"),
        (
            "sppo's target negative",
            "sppo_hard",
            "(logps.chosen_logratio() - target)",
            "(logps.chosen_logratio() + target)",
        ),
    ),
    *_scratch(
        "reference_free",
        ("gamma's sign", "simpo", "- gamma)", "+ gamma)"),
        (
            "sum for mean",
            "simpo",
            "logps.policy_chosen / chosen_lengths, logps.policy_rejected / rejected_lengths",
            "logps.policy_chosen, logps.policy_rejected",
        ),
        ("likelihood's sign", "cpo", "- nll_weight * chosen", "+ nll_weight * chosen"),
    ),
    *_scratch(
        "regularized",
        ("penalty on what chosen gained", "dpop", "torch.relu(-logps.chosen", "torch.relu(logps.chosen"),
        ("penalty on the wrong answer", "dpop", "-logps.chosen_logratio())", "-logps.rejected_logratio())"),
        ("longer answers paid", "rdpo", "h + alpha * longer", "h - alpha * longer"),
    ),
    *_scratch(
        "graded",
        (
            "the probability of the other answer",
            "soft",
            "-p * F.logsigmoid(h) - (1 - p) * F.logsigmoid(-h)",
            "-p * F.logsigmoid(-h) - (1 - p) * F.logsigmoid(h)",
        ),
        ("offset's sign", "odpo", "F.logsigmoid(h - offset)", "F.logsigmoid(h + offset)"),
    ),
    *_scratch(
        "over_batch",
        (
            "aot unsorted",
            "aot",
            "(logps.policy_chosen - logps.policy_rejected).sort().values",
            "(logps.policy_chosen - logps.policy_rejected)",
        ),
        ("mean of means for mean of tokens", "sft", "* len(chosen_lengths) / chosen_lengths.sum()", "/ chosen_lengths"),
        ("gradient through beta-DPO's beta", "beta_dpo", "h.detach().mean()", "h.mean()"),
    ),
    *_scratch(
        "token_level",
        ("gradient through chosen's divergence", "tdpo", "chosen.detach()", "chosen"),
        ("divergences exchanged", "tdpo", "(rejected - chosen.detach())", "(chosen.detach() - rejected)"),
    ),
    *_scratch(
        "logps",
        (
            "reference left out of the margin",
            "sigmoid",
            "return self.policy_chosen - self.reference_chosen",
            "return self.policy_chosen",
        ),
        (
            "margin's sign",
            "hinge",
            "return self.chosen_logratio() - self.rejected_logratio()",
            "return self.rejected_logratio() - self.chosen_logratio()",
        ),
    ),
    *_scratch(
        "rewards",
        ("a divergence's sign", "js_divergence", "math.log(2) + F.log", "math.log(2) - F.log"),
        ("reverse for forward", "forward_kl", '"forward_kl": -1.0', '"forward_kl": 0.0'),
        ("ld_alpha on the shared part", "ld_alpha", ">= shared[:, None]", "< shared[:, None]"),
        ("ld_alpha a token late", "ld_alpha", ">= shared[:, None]", "> shared[:, None]"),
        ("gradient through WPO's weight", "wpo", "tokens.policy.detach() - tokens", "tokens.policy - tokens"),
        ("WPO without its normaliser", "wpo", "tokens.policy.detach() - tokens.collision", "0 * tokens.collision"),
        ("WPO without its length norm", "wpo", ".sum(dim=1) / lengths", ".sum(dim=1)"),
    ),
    *_scratch(
        "objective",
        ("a term's relu dropped", "terms", "(excess if term.rate else torch.relu(excess))", "excess"),
        ("a multiplier's sign", "terms", "return multiplier * score", "return -multiplier * score"),
        ("a pair's weight ignored", "sigmoid", "weights.to(part) * part", "part"),
        ("the weights of a sum ignored", "sum", "m.weight * m.loss(", "m.loss("),
    ),
    *_scratch(
        "terms",
        (
            "a penalty's length norm dropped",
            "terms",
            "-logps.policy_chosen / logps.lengths()[0]",
            "-logps.policy_chosen",
        ),
    ),
    *_scratch(
        "kto",
        ("desirable and undesirable exchanged", "kto", "answers.desirable, desirable", "~answers.desirable, desirable"),
        ("the shift left in the gradient", "kto", "logratio().detach().mean()", "logratio().mean()"),
        ("mismatched answers ignored", "kto", "(answers.logratio() - z)", "answers.logratio()"),
    ),
    *_parity(
        "losses.pairwise",
        ("beta twice", "sigmoid", "h = beta * logps.margin()", "h = 2 * beta * logps.margin()"),
        ("ipo on sums", "ipo", _PER_TOKEN, "logps.margin()"),
    ),
    *_parity("losses.variants", ("dpo per token on sums", "sigmoid_norm", _PER_TOKEN, "logps.margin()")),
    *_parity(
        "losses.pointwise",
        (
            "bco raises rejected",
            "bco_pair",
            "F.logsigmoid(-beta * logps.rejected",
            "F.logsigmoid(beta * logps.rejected",
        ),
        ("apo lowers the margin", "apo_down", "F.sigmoid(-beta * logps.margin", "F.sigmoid(beta * logps.margin"),
    ),
    *_parity(
        "losses.rewards",
        (
            "a divergence of another order",
            "alpha_divergence",
            "f_alpha_divergence_coef - 1}",
            "f_alpha_divergence_coef}",
        ),
    ),
    *_parity(
        "losses.kto",
        ("the shift may be negative", "kto", ".clamp(min=0)", ""),
    ),
    *_parity(
        "tokens.encoding",
        ("the end token not trained", "ids", "chosen[len(prompt) :], rejected", "chosen[len(prompt) : -2], rejected"),
        ("prompt counted with the answer", "ids", "return prompt, chosen[len(prompt) :]", "return prompt, chosen"),
        (
            "the answer a token late",
            "ids",
            "return prompt, chosen[len(prompt) :]",
            "return prompt, chosen[len(prompt) + 1 :]",
        ),
        (
            "chosen and rejected rows exchanged",
            "ids",
            "prompt, chosen[len(prompt) :], rejected[len(prompt) :]",
            "prompt, rejected[len(prompt) :], chosen[len(prompt) :]",
        ),
    ),
    *_parity(
        "tokens.answers",
        ("an answer set against its own prompt", "mismatched", "np.roll(together, counts.max())", "together"),
    ),
    *_parity(
        "training.trainer",
        (
            "prompt counted in the batch",
            "batch",
            "{**self.collate(rows), ",
            '{**(made := self.collate(rows)), "completion_mask": made["attention_mask"], ',
        ),
        ("the places of other rows", "batch", '[row["row"] for row in rows]', '[row["row"] for row in rows[::-1]]'),
    ),
    *_run(
        "scoring",
        (
            "policy and reference exchanged",
            "moved",
            f"{_OF_POLICY} chosen",
            _SUMS,
            "*reference.outputs.log_probs.sum(dim=1).chunk(2), *policy.outputs.log_probs.sum(dim=1).chunk(2)",
        ),
        (
            "mean for sum",
            "start",
            "before the first step the policy must equal its reference",
            "*policy.outputs.log_probs.sum(dim=1)",
            "*policy.outputs.log_probs.mean(dim=1)",
        ),
        ("mean for sum on both sides", "start", f"{_OF_POLICY} chosen", _SUMS, _SUMS.replace(".sum(", ".mean(")),
        (
            "chosen and rejected exchanged",
            "start",
            f"{_OF_POLICY} chosen",
            _SUMS,
            _SUMS.replace(".chunk(2)", ".chunk(2)[::-1]"),
        ),
        (
            "rejected's reference for both answers",
            "moved",
            f"{_OF_REFERENCE} chosen",
            "*reference.outputs.log_probs.sum(dim=1).chunk(2))",
            "*2 * reference.outputs.log_probs.sum(dim=1).chunk(2)[1:])",
        ),
        (
            "mask shifted by one",
            "start",
            f"{_OF_POLICY} chosen",
            "self.model(labels=labels, **inputs)",
            _labels('inputs["input_ids"].masked_fill(labels.roll(1, 1) == -100, -100)'),
        ),
        (
            "tokens predicted a place late",
            "start",
            f"{_OF_POLICY} chosen",
            "self.model(labels=labels, **inputs)",
            _labels("labels.roll(1, 1)"),
        ),
        (
            "prompt counted",
            "start",
            f"{_OF_POLICY} chosen",
            "self.model(labels=labels, **inputs)",
            _labels('inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)'),
        ),
        (
            "padding counted",
            "start",
            f"{_OF_POLICY} chosen",
            "self.model(labels=labels, **inputs)",
            _labels('labels.where(inputs["attention_mask"] == 1, inputs["input_ids"])'),
        ),
        (
            "prompt counted in the lengths",
            "ipo",
            "chosen_lengths must be that of each pair's own row",
            "completion_mask[:, 1:].bool()",
            "completion_mask[:, 1:] > -1",
        ),
        (
            "the mask of lengths shifted by one",
            "ipo",
            "chosen_lengths must be that of each pair's own row",
            "completion_mask[:, 1:].bool()",
            "completion_mask[:, :-1].bool()",
        ),
        (
            "divergence of the wrong direction",
            "tdpo",
            "the kl of the ",
            "log_ref.exp() * (log_ref - log_pi)",
            "log_pi.exp() * (log_pi - log_ref)",
        ),
        (
            "divergence at the token after",
            "tdpo",
            "the kl of the ",
            "states[0][:, :-1][labels",
            "states[0][:, 1:][labels",
        ),
        (
            "collision without its log",
            "wpo",
            "the collision of the ",
            "policy.outputs.log_sum_sq_probs if",
            "policy.outputs.log_sum_sq_probs.exp() if",
        ),
        (
            "values of tokens not moved to the left",
            "ld_alpha",
            _THREE_WAYS,
            ".gather(1, order)[:, :width]",
            "[:, :width]",
        ),
    ),
    *_run(
        "trainer",
        (
            "the policy for its own reference",
            "moved",
            f"{_OF_REFERENCE} chosen",
            "policy.scored, reference.scored",
            "policy.scored, policy.scored",
        ),
        ("gradient scaled", "start", _GRADIENT_NORM, "return losses.mean()", "return 0.5 * losses.mean()"),
        ("loss summed instead of averaged", "start", _GRADIENT_NORM, "return losses.mean()", "return losses.sum()"),
        (
            "half of the batch without gradient",
            "start",
            _GRADIENT_NORM,
            "return losses.mean()",
            "return losses[::2].sum() / len(losses)",
        ),
        ("gradient's sign", "start", _DIRECTION, "return losses.mean()", "return -losses.mean()"),
        (
            "accumulation not divided out",
            "accumulated",
            _GRADIENT_NORM,
            "return losses.mean()",
            "return losses.mean() * self.current_gradient_accumulation_steps",
        ),
        (
            "a loss other than the objective trains",
            "moved",
            _GRADIENT_NORM,
            "return losses.mean()",
            "return losses.square().mean()",
        ),
    ),
    *_run(
        "referenced",
        (
            "the reference trained along",
            "full",
            f"{_OF_REFERENCE} chosen",
            "self.engine.forward(self.ref_model or self.model, self.objective",
            "self.engine.forward(self.model, self.objective",
        ),
    ),
    *_run(
        "sides",
        (
            "the adapter on in the reference",
            "moved",
            f"{_OF_REFERENCE} chosen",
            "with policy.disable_adapter():",
            "with torch.no_grad():",
        ),
        ("dropout live where none is looked for", "dropout", f"{_OF_POLICY} chosen", "module.p > 0", "module.p > 1"),
    ),
    *_run(
        "extras",
        (
            "numbers of other rows",
            "soft",
            "probability must be that of each pair's own row",
            "from_numpy(column[places]).to",
            "from_numpy(column[places[::-1]]).to",
        ),
    ),
    *_run(
        "kto",
        ("labels exchanged", "kto", _THREE_WAYS, 'AnswerLogps(inputs["label"]', 'AnswerLogps(~inputs["label"]'),
        (
            "mismatched answers not moved",
            "kto",
            f"{_OF_POLICY} mismatched",
            "mismatched.sum(dim=1), reference_mismatched",
            "reference_mismatched, reference_mismatched",
        ),
        (
            "policy and reference of single answers exchanged",
            "kto",
            f"{_OF_POLICY} completion",
            "matched.sum(dim=1), reference, mis",
            "reference, matched.sum(dim=1), mis",
        ),
        (
            "references of single answers exchanged",
            "kto",
            _THREE_WAYS,
            "= reference, reference_mismatched\n",
            "= reference_mismatched, reference\n",
        ),
        (
            "gradient of single answers scaled",
            "kto",
            _GRADIENT_NORM,
            "return losses.mean()",
            "return 2 * losses.mean()",
        ),
    ),
    *_shared(
        "layout",
        (
            "positions that do not restart after the trunk",
            "shared",
            f"{_OF_POLICY} rejected",
            "yield np.arange(self.trunk, len(self.rejected_ids))",
            "yield len(self.chosen_ids) + np.arange(len(self.rejected_ids) - self.trunk)",
        ),
        (
            "rejected's first token read off the end of chosen",
            "shared",
            f"{_OF_POLICY} rejected",
            "np.where(before < self.trunk, before, before - self.trunk + len(chosen_ids))",
            "before - self.trunk + len(chosen_ids)",
        ),
        (
            "a trunk one too long",
            "shared",
            f"{_OF_POLICY} rejected",
            "int(differ[0]) if",
            "int(differ[0]) + 1 if",
        ),
        (
            "labels of chosen shifted",
            "shared",
            f"{_OF_POLICY} chosen",
            "self.chosen_labels = chosen_ids[chosen_prompt:]",
            "self.chosen_labels = chosen_ids[chosen_prompt - 1 : -1]",
        ),
        (
            "labels of rejected shifted",
            "shared",
            f"{_OF_POLICY} rejected",
            "self.rejected_labels = rejected_ids[first:]",
            "self.rejected_labels = rejected_ids[first - 1 : -1]",
        ),
        (
            "padding before the answer",
            "shared",
            f"{_OF_POLICY} chosen",
            "_Pair(ids[pair, : lengths[pair]],",
            "_Pair(np.roll(ids[pair], ids.shape[1] - lengths[pair])[: lengths[pair]],",
        ),
        (
            "rejected sees chosen",
            "masked",
            f"{_OF_POLICY} rejected",
            "(each.start, each.start + first)), strict",
            "(each.start, each.start)), strict",
        ),
        (
            "the future is seen",
            "masked",
            f"{_OF_POLICY} chosen",
            "(before & (in_trunk | in_branch))",
            "(in_trunk | in_branch)",
        ),
        (
            "a trunk of another pair",
            "masked",
            f"{_OF_POLICY} chosen",
            "((each.start,) * 2,",
            "((0,) * 2,",
        ),
    ),
    *_shared(
        "attention",
        (
            "rejected sees chosen for its trunk",
            "shared",
            f"{_OF_POLICY} rejected",
            "s[first][:, :, : each.trunk]",
            "s[first][:, :, -each.trunk :]",
        ),
        (
            "rejected sees the next token",
            "shared",
            f"{_OF_POLICY} rejected",
            ".tril(each.trunk)",
            ".tril(each.trunk + 1)",
        ),
    ),
    *_shared(
        "head",
        (
            "slopes negated",
            "shared",
            _DIRECTION,
            "torch.autograd.grad(graph, inner, slopes)",
            "torch.autograd.grad(graph, inner, -slopes)",
        ),
        ("slopes of the label alone", "shared", _GRADIENT_NORM, "slopes = shares.neg_()", "slopes = shares.zero_()"),
        ("every token's slope one", "shared", _GRADIENT_NORM, "(slopes * slope[:, None])", "slopes"),
        (
            "a head that trains left out of the gradient",
            "shared full",
            _GRADIENT_NORM,
            "if trained and torch.is_grad_enabled():",
            "if not trained and torch.is_grad_enabled():",
        ),
        (
            "collision not normalised",
            "shared wpo",
            "the collision of the ",
            "logsumexp(dim=1) - 2 * normalizer",
            "logsumexp(dim=1) - normalizer",
        ),
    ),
    *_shared(
        "shared",
        (
            "hidden states of other tokens",
            "shared tdpo",
            "the kl of the ",
            "hidden = states[layout.sources] if",
            "hidden = states[layout.sources.flip(0)] if",
        ),
    ),
    *_engine(
        "training.trainer",
        ("micro-batches of unlike size weigh alike", "step", "= pairs / len(part)", "= len(parts)"),
        ("micro-batches not rescaled", "step", "= pairs / len(part)", "= 1.0"),
    ),
    *_engine(
        "engine.packing",
        (
            "a pair left out",
            "step",
            "return [sorted(part) for part in parts if part]",
            "return [sorted(part) for part in parts[1:] if part]",
        ),
        ("pairs and answers mixed", "step", "pairs + len(batch", "pairs.flip(0) + len(batch"),
        ("the longest answer cut", "step", "sum(dim=1).max())", "sum(dim=1).min())"),
    ),
    *_engine(
        "engine.layout",
        ("trunk one too long, before the first step", "auto", "int(differ[0]) if", "int(differ[0]) + 1 if"),
    ),
    *_engine(
        "engine.attention",
        (
            "rejected sees chosen, before the first step",
            "auto",
            "s[first][:, :, : each.trunk]",
            "s[first][:, :, -each.trunk :]",
        ),
    ),
]
