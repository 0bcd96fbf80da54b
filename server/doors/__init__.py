"""The doors: each a protocol that somebody's client speaks already, as a router over the desk. A door translates."""
