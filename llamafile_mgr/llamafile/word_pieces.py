"""WordPiece: the tokens of a text from a file's own vocabulary, to hold an engine's against.

Texts of lower-case ASCII letters and spaces alone: of these all releases of llama.cpp and all normalisers of
BERT models make the same words (llama.cpp ``src/llama-vocab.cpp``, ``llm_tokenizer_wpm_session``). Each word,
with U+2581 in front, is cut into the longest tokens that fit; one that cannot be cut is unknown as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from llamafile_mgr.llamafile.byte_source import ByteSource, Cursor, WorkBudget, open_source
from llamafile_mgr.llamafile.gguf_header import read_header
from llamafile_mgr.llamafile.inspection import Weights

_U64 = Struct("<Q")
_WORD_START = "\u2581"
#: A vocabulary of a million tokens would be three times the largest.
_MAX_TOKENS = 1_000_000
#: Words of a text whose tokens go wrong where pieces of words are taken for special tokens.
_TRAP_WORDS = 8
_SHORTEST_TRAP = 4


@dataclass(frozen=True, slots=True)
class WordPieces:
    """A vocabulary. ``ids``: by the token's text as the file has it; ``unknown``: the id of what has none."""

    ids: Mapping[str, int]
    unknown: int | None

    @property
    def ignores_case(self) -> bool:
        """Tell whether no word of the vocabulary has a capital, so that texts must be read without them."""
        return not any(token[:1] == _WORD_START and token != token.lower() for token in self.ids)

    def tokenize(self, text: str) -> tuple[int | None, ...]:
        """Return the ids of a text of lower-case ASCII letters and spaces, without special tokens."""
        return tuple(token for word in text.split() for token in self._cut(_WORD_START + word))

    def _cut(self, word: str) -> tuple[int | None, ...]:
        found: list[int | None] = []
        at = 0
        while at < len(word):
            end = next((end for end in range(len(word), at, -1) if word[at:end] in self.ids), None)
            if end is None:
                return (self.unknown,)
            found.append(self.ids[word[at:end]])
            at = end
        return tuple(found)

    def trap(self) -> str | None:
        """Return a text that engines before June 2024 read wrongly, None where the vocabulary makes none.

        They take every piece of a word that is not itself two tokens for a special token, and look for these
        in the text first: of ``hello world`` they make ``hello`` and ``##world``.
        """
        words: list[str] = []
        for word in self._words_and_pieces():
            if not any(word[:at] in self.ids and word[at:] in self.ids for at in range(1, len(word))):
                words.append(word)
                if len(words) == _TRAP_WORDS:
                    break
        return " ".join(words) or None

    def _words_and_pieces(self) -> Iterator[str]:
        """Yield what is both a word and the rest of one."""
        for token in self.ids:
            plain = token.isascii() and token.isalpha() and token.islower() and len(token) >= _SHORTEST_TRAP
            if plain and _WORD_START + token in self.ids:
                yield token


def read_word_pieces(path: Path, weights: Weights) -> WordPieces | None:
    """Return the vocabulary of these weights in the file ``path``, None when its tokenizer is another.

    Raises:
        NotFoundError: the file is gone.
        InvalidFileError: it is another than when it was inspected.
    """
    if not weights.gguf.is_word_piece:
        return None
    with open_source(path) as source:
        budget = WorkBudget(4 * _MAX_TOKENS)
        pairs = read_header(source, weights.offset, weights.size, budget).pairs
        if pairs.tokens_at is None or pairs.token_count is None:
            return None
        budget.spend(pairs.token_count)
        texts = _read_texts(source, pairs.tokens_at, weights.offset + weights.size, pairs.token_count)
        ids = {text: number for number, text in enumerate(texts)}
    unknown = pairs.values.get("tokenizer.ggml.unknown_token_id")
    return WordPieces(ids, unknown if type(unknown) is int else ids.get("[UNK]"))


def _read_texts(source: ByteSource, start: int, end: int, count: int) -> Iterator[str]:
    cursor = Cursor(source, start, end)
    for _ in range(count):
        (length,) = cursor.unpack(_U64)
        yield cursor.take(length).decode("utf-8", "replace")
