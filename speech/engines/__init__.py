"""What speaks. One room each, one protocol (`base`), chosen by name in `registry`."""
