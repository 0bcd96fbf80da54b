"""Other servers and chutes as one engine, reached with our own client. The self-hosted server's; no part of the image
that a chute runs in."""
