"""Weight codes in the packing conventions of other tools; docs/pack-format.md lists how they differ.

Each profile takes codes in O, H, W, I order, says by which conventions it packs, and refuses what it cannot hold.
"""
