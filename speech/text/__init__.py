"""Text before it is spoken: how it reads aloud (normalise), and where it may be cut (split)."""
