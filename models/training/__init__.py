"""Recipes carried out: float, stage 1, stage 2; resumable, on one worker or several."""
