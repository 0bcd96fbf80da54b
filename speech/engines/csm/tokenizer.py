"""Text to the rows' text ids: Llama 3's tokenizer, from its tokenizer.json alone."""

from __future__ import annotations

from tokenizers import Tokenizer

from speech.engines.csm.source import Source
from speech.errors import StartupError

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"


class TextTokenizer:
    """Encodes what a speaker says, framed as the original frames it. Safe from any thread."""

    def __init__(self, source: Source, *, vocabulary: int) -> None:
        path = source.get("tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more particular
            raise StartupError(f"{source.setting}: tokenizer.json of {source} cannot be read: {error}") from error
        # A caller's "<|end_of_text|>" is text like any other.
        self._tokenizer.encode_special_tokens = True
        begin, end = (self._tokenizer.token_to_id(token) for token in (BEGIN, END))
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if begin is None or end is None:
            raise StartupError(f"{source.setting}: the tokenizer of {source} has no {BEGIN} and {END}; set Llama 3's")
        if size > vocabulary:
            raise StartupError(
                f"{source.setting}: the tokenizer of {source} has {size} tokens, the model only {vocabulary}; "
                f"set the tokenizer that belongs to it"
            )
        self._begin, self._end = begin, end

    def encode(self, text: str, speaker: int) -> list[int]:
        """Ids of `[speaker]text` between a beginning and an end; there is no space after the bracket."""
        spoken = self._tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids
        return [self._begin, *spoken, self._end]
