"""WordPiece from a file's own vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from llamafile_mgr.errors import InvalidFileError, NotFoundError
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.word_pieces import WordPieces, read_word_pieces
from tests.llamafile.llamafile_samples import write_llamafile

WORDS = [
    *(
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "▁hello",
        "▁world",
        "world",
        "▁un",
        "believ",
        "able",
        "▁a",
        "ly",
        "ab",
        "le",
    ),
    *("▁able", "▁w", "or", "ld"),
]
VOCABULARY = WordPieces({word: number for number, word in enumerate(WORDS)}, 0)


def write(path: Path, words: list[str], *, tokenizer: str = "bert", unknown: int | None = 0) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(words)
    if unknown is not None:
        writer.add_unk_token_id(unknown)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def read(path: Path) -> WordPieces | None:
    weights = inspect_file(path).model
    assert weights is not None
    return read_word_pieces(path, weights)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("hello world", ["▁hello", "▁world"]),
        ("  hello \n world ", ["▁hello", "▁world"]),
        ("unbelievably", ["▁un", "believ", "ab", "ly"]),
        ("unbelievablely", ["▁un", "believ", "able", "ly"]),
        ("zebra hello", ["[UNK]", "▁hello"]),
        ("word", ["[UNK]"]),
        ("world", ["▁world"]),
        ("aworld", ["▁a", "world"]),
    ],
)
def test_the_longest_pieces_are_taken(text: str, words: list[str]) -> None:
    assert VOCABULARY.tokenize(text) == tuple(WORDS.index(word) for word in words)


def test_a_trap_is_made_of_pieces_that_are_no_two_tokens() -> None:
    # 'able' is 'ab' and 'le', and no engine took it for a special token.
    assert VOCABULARY.trap() == "world"
    assert WordPieces({**VOCABULARY.ids, "wo": 98, "rld": 99}, 0).trap() is None
    assert WordPieces({"▁world": 0}, None).trap() is None


def test_capitals_are_told_by_the_vocabulary() -> None:
    assert VOCABULARY.ignores_case
    assert not WordPieces({**VOCABULARY.ids, "▁Hello": 99}, 0).ignores_case


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    bare = write(tmp_path / "m.gguf", WORDS)
    assert read(bare) == VOCABULARY
    assert read(write_llamafile(tmp_path / "m.llamafile", bare, "")) == VOCABULARY
    named = write(tmp_path / "n.gguf", WORDS, unknown=None)
    assert read(named) == VOCABULARY
    assert read(write(tmp_path / "s.gguf", WORDS, tokenizer="llama")) is None


def test_a_file_that_changed_meanwhile(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", WORDS)
    weights = inspect_file(path).model
    assert weights is not None
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidFileError):
        read_word_pieces(path, weights)
    path.unlink()
    with pytest.raises(NotFoundError):
        read_word_pieces(path, weights)
