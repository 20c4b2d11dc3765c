"""What tests of training share: TensorFlow warns in its log, not as Python does; here that is an error too."""

import logging
from collections.abc import Iterator

import pytest


class _Refusal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "triggered tf.function retracing" not in message:  # tests call one function with many shapes, users do not
            raise AssertionError(message)


@pytest.fixture(scope="session", autouse=True)
def tensorflow_has_nothing_to_warn_of() -> Iterator[None]:
    """Raise where TensorFlow's log gets a warning, which a user would see between the lines of a run."""
    logger, refusal = logging.getLogger("tensorflow"), _Refusal(logging.WARNING)
    logger.addHandler(refusal)
    yield
    logger.removeHandler(refusal)
