"""On PYTHONPATH of `make check-docs`: what it starts finds no training extra, installed or not."""

import sys

for absent in ("tensorflow", "tf_keras", "keras", "soundfile"):
    sys.modules[absent] = None  # type: ignore[assignment]  # None: importing it fails as if it were not installed
