"""What all tests share: one thread, so that figures repeat bit by bit, and hypothesis without chance or clock."""

import os

import jaxtyping
import pytest
from hypothesis import settings

# Before anything imports it, so that its assertions explain themselves.
pytest.register_assert_rewrite("contract", "params_file")

# A user's store is none of the tests' business.
os.environ.pop("MLFLOW_TRACKING_URI", None)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check types and shapes in fast tests alone: checks take half of their time, and slow tests run the same code."""
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
