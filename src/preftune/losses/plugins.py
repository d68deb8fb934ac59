"""The battery that a loss, or a penalty term, must pass before anything is loaded.

1. Its signature takes the log-probabilities of pairs, and the parameters that are given.
2. On ordinary pairs, on one alone, at the start and at log-ratios of +-1e4 nats it gives one finite cost a pair, with
   a finite gradient that reaches the policy's log-probabilities and nothing else, and leaves its inputs as they are.
3. Called again it gives the same costs.
4. A pair costs the same in any order of the pairs, unless the loss declares `per_pair=False`.
5. It costs the same beside any others, and halves of a batch give the gradient of the whole, unless the loss declares
   `accumulates=False`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preftune.losses.logps import PairLogps, TokenLogps
from preftune.losses.traits import traits_of
from preftune.losses.trials import PAIRS, TrialPairs
from preftune.plugins import FAULTS
from preftune.refusals import Refusal, refuse_all
from preftune.spelling import did_you_mean

_FAR = 1e4
_OCCASIONS: dict[str, dict[str, float]] = {
    "ordinary pairs": {},
    "a policy equal to its reference": {"noise": 0.0},
    "chosen answers 10,000 nats above their reference": {"chosen": _FAR},
    "chosen answers 10,000 nats below their reference": {"chosen": -_FAR},
    "rejected answers 10,000 nats above their reference": {"rejected": _FAR},
    "rejected answers 10,000 nats below their reference": {"rejected": -_FAR},
}
_TOLERANCE = 1e-5
"""Of two numbers that must be equal, beside 1 and beside their size; a loss may compute in float32."""


def check_loss(function: Callable[..., Any], parameters: Mapping[str, Any], path: str, key: str = "loss.name") -> None:
    """Refuse a loss that lacks a property which training relies on.

    Args:
        function: The loss: of a `PairLogps` and keyword parameters.
        parameters: Those that it will be called with.
        path: Its name, or its dotted path.
        key: The setting that names it: `loss.name`, or `loss.terms.<name>` for a penalty term.

    Raises:
        Refusal: One sentence for each property that fails, with the numbers; the later ones are looked at only where
            the earlier ones hold.
    """
    refuse_all([f"{key} must {fault}" for fault in _signature_faults(function, parameters, path)])
    battery = _Battery(function, parameters, path)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # a loss that draws leaves no trace
        try:
            battery.require_sound_results()
            battery.require_a_batch_of_one()
            battery.require_the_same_again()
        except _Fault as fault:
            raise Refusal(f"{key} must {fault}") from fault.__cause__
        refuse_all([f"{key} must {fault}" for fault in battery.faults_of_batches()])


class _Fault(Exception):
    """What a loss must do and does not."""


def _signature_faults(function: Callable[..., Any], parameters: Mapping[str, Any], path: str) -> list[str]:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some written in C tell none
        return []
    taken = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    shown = f"{path}{signature.replace(parameters=taken, return_annotation=signature.empty)}"
    if not taken or taken[0].kind in (taken[0].KEYWORD_ONLY, taken[0].VAR_KEYWORD):
        return [f"take the log-probabilities of pairs as its first argument, got {shown}"]
    by_name = {each.name: each for each in taken[1:] if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    faults = [
        f"be given each parameter that has no default, got no {name} for {shown}"
        for name, each in by_name.items()
        if each.default is each.empty and name not in parameters
    ]
    if not any(each.kind is each.VAR_KEYWORD for each in taken):
        unknown = [name for name in parameters if name not in by_name]
        faults += [f"take each parameter given, got {n} for {shown}{did_you_mean(n, by_name)}" for n in unknown]
    return faults


@dataclass(frozen=True, slots=True)
class _Battery:
    function: Callable[..., Any]
    parameters: Mapping[str, Any]
    path: str

    def require_sound_results(self) -> None:
        reached = False
        for occasion, moved in _OCCASIONS.items():
            pairs = self._pairs(dtype=torch.float32, **moved)
            record = pairs.record()
            costs = self._costs(record, occasion)
            self._require_finite(costs, f"give finite costs at {occasion}")
            self._require_unchanged(record, pairs.record())
            self._require_no_other_leaf(costs, pairs.leaves())
            for gradient in self._gradients(costs.sum(), pairs):
                self._require_finite(gradient, f"give a finite gradient at {occasion}")
                reached = reached or bool((gradient != 0).any())
        if not reached:
            tried = len(_OCCASIONS) * PAIRS
            raise _Fault(f"send gradient to the policy's log-probabilities, got 0 at {tried} pairs from {self.path}")

    def require_a_batch_of_one(self) -> None:
        pairs = self._pairs(dtype=torch.float32)
        costs = self._costs(pairs.record(torch.tensor([0])), "a batch of one pair")
        self._require_finite(costs, "give finite costs in a batch of one pair")
        for gradient in self._gradients(costs.sum(), pairs):
            self._require_finite(gradient, "give a finite gradient in a batch of one pair")

    def require_the_same_again(self) -> None:
        pairs = self._pairs()
        first, second = self._costs(pairs.record()), self._costs(pairs.record())
        if not torch.equal(first, second):
            place = int((first - second).abs().argmax())
            numbers = f"{_shown(first[place])} and then {_shown(second[place])} for pair {place}"
            raise _Fault(f"give the same costs when it is called again, got {numbers} from {self.path}")

    def faults_of_batches(self) -> list[str]:
        """Return what fails of the properties that a loss may declare not to have."""
        traits = traits_of(self.function)
        pairs = self._pairs()
        try:
            whole = self._costs(pairs.record())
            halves = [self._costs(pairs.record(rows), "half a batch") for rows in torch.arange(PAIRS).chunk(2)]
            order = torch.tensor([3, 6, 0, 5, 7, 2, 4, 1])
            permuted = torch.empty_like(whole).index_put((order,), self._costs(pairs.record(order)))
        except _Fault as fault:
            return [str(fault)]
        faults = []
        if traits.per_pair:
            found = self._unequal(whole, permuted, "give a pair the same cost in any order of the pairs")
            faults += [f"{fault}; or declare per_pair=False" for fault in found]
        if traits.accumulates:
            found = self._unequal(whole, torch.cat(halves), "give a pair the same cost beside any others")
            gradient = torch.cat([each.sum(1) for each in self._gradients(whole.mean(), pairs)])
            parts = sum(half.mean() for half in halves) / len(halves)
            by_halves = torch.cat([each.sum(1) for each in self._gradients(torch.as_tensor(parts), pairs)])
            found = found or self._unequal(gradient, by_halves, "give halves of a batch the gradient of the whole")
            faults += [f"{fault}; or declare accumulates=False" for fault in found]
        return faults

    def _pairs(self, **moved: Any) -> TrialPairs:
        return TrialPairs(traits_of(self.function), **moved)

    def _costs(self, record: PairLogps, occasion: str = "ordinary pairs") -> Tensor:
        try:
            costs = self.function(record, **self.parameters)
        except FAULTS as fault:
            raise _Fault(f"take {occasion}, got {type(fault).__name__} from {self.path}: {fault}") from fault
        count = len(record.policy_chosen)
        if not isinstance(costs, Tensor):
            raise _Fault(f"return a Tensor, got a value of type {type(costs).__name__} from {self.path}")
        if costs.shape != (count,):
            raise _Fault(
                f"return one cost a pair, of shape ({count},), got shape {tuple(costs.shape)} from {self.path}"
            )
        if not costs.is_floating_point():
            raise _Fault(f"return floating-point numbers, got {costs.dtype} from {self.path}")
        return costs

    def _gradients(self, cost: Tensor, pairs: TrialPairs) -> list[Tensor]:
        leaves = pairs.leaves()
        if not cost.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        try:
            found = torch.autograd.grad(cost, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        except RuntimeError as fault:
            raise _Fault(f"have a gradient, got {type(fault).__name__} from {self.path}: {fault}") from fault
        return list(found)

    def _require_finite(self, values: Tensor, must: str) -> None:
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise _Fault(f"{must}, got {_shown(values[place])} for pair {place[0]} from {self.path}")

    def _require_unchanged(self, record: PairLogps, fresh: PairLogps) -> None:
        for name, now, before in _compared(record, fresh):
            if now.shape != before.shape or not torch.equal(now, before):
                change = (
                    f"a change of {_shown((now - before).abs().max())}" if now.shape == before.shape else "a new shape"
                )
                raise _Fault(f"leave its inputs as they are, got {change} in {name} from {self.path}")

    def _require_no_other_leaf(self, costs: Tensor, leaves: list[Tensor]) -> None:
        allowed = {id(leaf) for leaf in leaves}
        for leaf in _leaves(costs):
            if id(leaf) not in allowed:
                raise _Fault(
                    "send gradient to the policy's log-probabilities alone, got another tensor that needs it, of shape "
                    f"{tuple(leaf.shape)}, from {self.path}"
                )

    def _unequal(self, one: Tensor, other: Tensor, must: str) -> list[str]:
        excess = (one - other).abs() - _TOLERANCE * (1 + one.abs())
        place = int(excess.argmax())
        if excess[place] <= 0:
            return []
        numbers = f"{_shown(one[place])} and {_shown(other[place])} for pair {place % PAIRS}"
        return [f"{must}, got {numbers} from {self.path}"]


def _leaves(costs: Tensor) -> Iterator[Tensor]:
    """Yield each tensor that a backward pass would give a gradient."""
    left, seen = [costs.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [following for following, _ in node.next_functions]


def _compared(record: PairLogps, fresh: PairLogps) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each tensor of `record`, by name, beside the one of `fresh`."""
    for name in PairLogps.__dataclass_fields__:
        now, before = getattr(record, name), getattr(fresh, name)
        if isinstance(now, Tensor):
            yield name, now, before
        elif isinstance(now, TokenLogps):
            for column in TokenLogps.__dataclass_fields__:
                if getattr(now, column) is not None:
                    yield f"{name}.{column}", getattr(now, column), getattr(before, column)
    for name in record.extras:
        yield f"extras[{name!r}]", record.extras[name], fresh.extras[name]


def _shown(number: Tensor) -> str:
    return f"{number.item():.6g}"
