"""What every test shares: pinned Hypothesis runs and the optional data folder beside the checkout."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Derandomized, so that a red run is red again; no deadline, because two workers share the machine's cores.
settings.register_profile("kwsq", derandomize=True, deadline=None, database=None)
settings.load_profile("kwsq")

# A shell ignores Ctrl-C for what it runs in the background, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return ../shared, or skip: the project builds and passes its default tests without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder.name}/ beside the checkout")
    return folder
