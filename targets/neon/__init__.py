"""The Arm NEON target: LiteRT flatbuffers."""
