"""Back ends: each turns a lowered graph into the bytes of one artefact."""
