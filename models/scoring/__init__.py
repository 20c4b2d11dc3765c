"""What a trained file is worth: accuracy, detection, the emitted artefact, score files that merge."""
