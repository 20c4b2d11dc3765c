"""The interpreters artefacts and sources are run in."""
