"""Whether a take may be handed over."""
