"""Every test of an encoder draws anew, and prints from which seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    print(f"torch.manual_seed({torch.seed()})")
