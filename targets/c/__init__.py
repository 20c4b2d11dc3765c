"""C99 sources, with NEON where the compiler has it."""
