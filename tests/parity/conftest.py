"""What the tests of the losses share."""

import pytest
import torch

from tests import stock
from tests.parity.stock_loss import Stock, stock_losses


@pytest.fixture(scope="module")
def stock_loss(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Build TRL's trainer with a loss and its parameters, on a two-layer model in float32."""
    return stock_losses(stock.save_model(tmp_path_factory.mktemp("model"), stock.CHATML, dtype=torch.float32))
