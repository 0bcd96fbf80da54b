"""Kokoro-82M: its 28 English voices, the match of a recording to a voice, and the engine that speaks."""
