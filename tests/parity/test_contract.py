"""What preftune leans on in TRL, transformers and peft is what it was when our code was written against it."""

import pytest

from tests.parity.contract import FILE, WHAT_TO_DO, contract, difference


def test_what_we_lean_on_has_not_changed() -> None:
    changed = difference(FILE.read_text(encoding="utf-8"), contract())
    assert not changed, f"\n{changed}"


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("beta = 0.1", "beta = 0.2"),
        ("DPOTrainer.compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)", ""),
        ("DPOTrainer: self.loss_types = args.loss_type", "DPOTrainer: self.loss_types = [args.loss_type]"),
        ("outputs.log_probs", "outputs.logps"),
        ("loss_type == 'ipo'", "loss_type == 'ipo_mean'"),
        ("entropy = None", "entropies = None"),
    ],
)
def test_a_line_that_changed_is_shown_with_what_to_do(line: str, other: str) -> None:
    now = contract()
    assert now.splitlines().count(line) >= 1
    lines = [other if each == line else each for each in now.splitlines()]
    shown = difference("\n".join(lines), now).splitlines()
    assert shown[:2] == ["--- trl_contract.txt", "+++ installed"]
    assert f"-{other}" in shown
    assert f"+{line}" in shown
    assert shown[-1] == WHAT_TO_DO


def test_nothing_is_shown_where_nothing_changed() -> None:
    assert difference(contract(), contract()) == ""
