"""The product: what a request means (service), who speaks it (engines), and how it is checked (quality).

Knows nothing of HTTP, of Chutes, or of files on the caller's side.
"""
