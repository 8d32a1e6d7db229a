"""Settings: precedence, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.config import Config, load_config
from llamafile_mgr.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, **environ: str) -> Config:
    return load_config(file, environ=environ)


def test_defaults_without_a_file(file: Path) -> None:
    config = load(file)
    assert config.serve.port == 8080
    assert (config.serve.embed, config.serve.generate, config.serve.rerank) == ((), (), ())
    assert config.source is None


def test_file_then_environment_then_flags(file: Path) -> None:
    file.write_text('[serve]\nport = 1\nembed = "a"\ndrain_seconds = 3\n[models.m]\nthreads = 2\n')
    assert load(file).serve.port == 1
    assert load(file).serve.drain_seconds == 3.0
    assert load(file).models["m"].threads == 2
    environ = {"LLAMAFILE_MGR_SERVE_PORT": "2", "LLAMAFILE_MGR_DOWNLOAD_OFFLINE": "yes"}
    config = load_config(file, environ=environ)
    assert (config.serve.port, config.serve.embed, config.download.offline) == (2, ("a",), True)
    config = load_config(file, environ=environ, flags={"serve.port": 3, "serve.embed": None})
    assert (config.serve.port, config.serve.embed) == (3, ("a",))


@pytest.mark.parametrize(
    ("text", "environ", "models"),
    [
        ('embed = "a"', {}, ("a",)),
        ('embed = ["a", "b"]', {}, ("a", "b")),
        ("embed = []", {}, ()),
        ('embed = ["a", "b"]', {"LLAMAFILE_MGR_SERVE_EMBED": "c"}, ("c",)),
        ('embed = "a"', {"LLAMAFILE_MGR_SERVE_EMBED": "c, d"}, ("c", "d")),
        ('embed = "a"', {"LLAMAFILE_MGR_SERVE_EMBED": ""}, ()),
    ],
)
def test_one_model_or_several(
    file: Path, text: str, environ: dict[str, str], models: tuple[str, ...]
) -> None:
    file.write_text(f"[serve]\n{text}\n")
    assert load(file, **environ).serve.embed == models


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nembed = 3", "must be a text or a list of texts"),
        ('[serve]\nembed = ["a", 3]', "must be a text or a list of texts"),
        ("[serve]\nprot = 1", "unknown key prot in .*serve.*"),
        ("[sevre]\nport = 1", "unknown key sevre"),
        ("[serve]\nport = true", "must be a whole number"),
        ('[serve]\nport = "8080"', "must be a whole number"),
        ("[serve]\nport = 70000", "outside 0 to 65535"),
        ("[serve]\ndrain_seconds = 0", "above zero"),
        ("serve = 3", "must be a table"),
        ("models = 3", "must be a table"),
        ("[models.m]\nthreads = 0", "models.m.threads must be at least 1"),
        ("[models.m]\nthread = 1", "unknown key thread"),
        ("[models.m]\nleast_cosine = 1.5", "least_cosine is 1.5, outside 0 to 1"),
        ("[models.m]\nleast_cosine = nan", "least_cosine is nan, outside 0 to 1"),
        ('[models.m]\nallow_known_bad = "yes"', "must be true or false"),
        ("[serve", "not valid TOML"),
        ("\xff", "not valid TOML"),
    ],
)
def test_a_broken_file_is_explained(file: Path, text: str, message: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        load(file)


def test_the_nearest_key_is_named(file: Path) -> None:
    file.write_text("[serve]\nprot = 1")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.hint == "did you mean port?"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLAMAFILE_MGR_SERVE_PROT", "1", "unknown key LLAMAFILE_MGR_SERVE_PROT"),
        ("LLAMAFILE_MGR_SERVE_PORT", "x", "must be a whole number"),
        ("LLAMAFILE_MGR_DOWNLOAD_OFFLINE", "perhaps", "must be true or false"),
    ],
)
def test_a_broken_variable_is_explained(file: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file, **{name: value})


def test_a_named_file_must_exist(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(file, file=file, environ={})
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(file, environ={"LLAMAFILE_MGR_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("line", "message"),
    [("input_type = 'question'", "input_type is 'question'"), ("cache_bytes = -1", "must not be negative")],
)
def test_settings_of_embedding_calls(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[serve]\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(file, environ={})
