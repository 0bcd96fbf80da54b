"""Voices by name: what a caller may write where a voice is asked for."""
