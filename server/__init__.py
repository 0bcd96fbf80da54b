"""The self-hosted face: the same operations as the Chute, at the same paths, over plain HTTP. `python -m server`."""
