"""A small synthetic keyword set: spoken by a speech synthesiser, kept as features only."""
