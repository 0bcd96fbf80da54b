"""What this code calls itself."""

VERSION = "0.1.0"
