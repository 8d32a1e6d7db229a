"""Settings: precedence, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.config import Config
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.errors import ConfigError
from tests.support.service import service_links


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
        ("[models.m]\nleast_cosine = nan", "least_cosine .* is nan, no number to count with"),
        ('[models.m]\nallow_known_bad = "yes"', "must be true or false"),
        ("[serve]\ndrain_seconds = nan", "serve.drain_seconds .* is nan, no number to count with"),
        ("[serve]\nrequest_seconds = inf", "serve.request_seconds .* is inf"),
        ("[download]\nstall_seconds = nan", "download.stall_seconds .* is nan"),
        ("[models.m]\nlora = [{file = 'a', scale = nan}]", "models.m.lora.scale .* is nan"),
        ("[models.m]\nrope = {freq_base = inf}", "models.m.rope.freq_base .* is inf"),
        (f"[models.m]\nidle_unload = '{'9' * 400}d'", "no duration"),
        ("[models.m]\naliases = ['']", "models.m.aliases has an empty name"),
        ("[serve]\nkeys_file = ''", "serve.keys_file .* is empty"),
        ("[serve]\nhost = ''", "serve.host .* is empty"),
        ("[serve]\nhosts = ['http://box']", "serve.hosts: 'http://box' is no host"),
        ("[serve]\nhosts = ['box:99999']", "serve.hosts: 'box:99999' is no host"),
        ("[serve]\nhosts = ['*']", "serve.hosts: '\\*' is no host"),
        ("[serve]\nhosts = ['']", "serve.hosts: '' is no host"),
        ("[serve]\ncors_origins = ['https://a.b/path']", "cors_origins: 'https://a.b/path' is no origin"),
        ("[serve]\ncors_origins = ['example.org']", "cors_origins: 'example.org' is no origin"),
        ("[serve]\ncors_origins = ['https://*.b']", "is no origin"),
        ("[serve]\ncors_origins = ['https://a:x']", "is no origin"),
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
        ("LLAMAFILE_MGR_SERVE_DRAIN_SECONDS", "nan", "is nan, no number to count with"),
        ("LLAMAFILE_MGR_SERVE_DRAIN_SECONDS", "-inf", "is -inf, no number to count with"),
        ("LLAMAFILE_MGR_SERVE_PROT", "1", "unknown key LLAMAFILE_MGR_SERVE_PROT"),
        ("LLAMAFILE_MGR_SERVE_PORT", "x", "must be a whole number"),
        ("LLAMAFILE_MGR_SERVE_PORT", "tcp://10.96.7.1:8080", "must be a whole number"),
        ("LLAMAFILE_MGR_SERVICE_PORT", "8081", "unknown key LLAMAFILE_MGR_SERVICE_PORT"),
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


@pytest.mark.parametrize("name", ["PORT", "KEYS_FILE", "DRAIN_SECONDS", "STRICT_MODELS", "TLS_CERTIFICATE"])
def test_an_empty_variable_is_as_good_as_none(file: Path, name: str) -> None:
    file.write_text('[serve]\nport = 81\nkeys_file = "/keys"\n')
    assert load(file, **{f"LLAMAFILE_MGR_SERVE_{name}": ""}) == load(file)


def test_a_home_directory_may_be_written_with_a_tilde(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file.write_text(
        """
        [serve]
        keys_file = "~/keys"
        tls_certificate = "~/c.pem"
        tls_key = "~/k.pem"
        embed = "~/m.gguf"
        [models.m]
        mmproj = "~/p.gguf"
        draft = "~/d.gguf"
        chat_template = "~/t.jinja"
        lora = ["~/a.gguf", {file = "~/b.gguf"}]
        remote = [{url = "https://a.b", key_file = "~/r", ca_file = "~/ca"}]
        """
    )
    config = load(file)
    serve, model = config.serve, config.models["m"]
    names = ["keys", "c.pem", "k.pem", "p.gguf", "d.gguf", "t.jinja", "a.gguf", "b.gguf", "r", "ca"]
    found = [serve.keys_file, serve.tls_certificate, serve.tls_key, model.mmproj, model.draft]
    found += [model.chat_template, *(lora.file for lora in model.lora)]
    found += [model.remote[0].key_file, model.remote[0].ca_file]
    assert found == [f"/home/me/{name}" for name in names]
    assert load(file, LLAMAFILE_MGR_SERVE_KEYS_FILE="~/other").serve.keys_file == "/home/me/other"
    config = load_config(file, environ={}, flags={"serve.tls_key": "~/flag"})
    assert config.serve.tls_key == "/home/me/flag"


def test_the_settings_file_itself_may_be_named_with_a_tilde(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    file.write_text("[serve]\nport = 81\n")
    for environ, flag in (({"LLAMAFILE_MGR_CONFIG": "~/config.toml"}, None), ({}, Path("~/config.toml"))):
        config = load_config(Path("/none"), file=flag, environ=environ)
        assert (config.serve.port, config.source) == (81, file)


def test_a_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    file.write_bytes("[serve]\nport = 81\n".encode("utf-8-sig"))
    assert load(file).serve.port == 81
    file.write_bytes("[serve]\nport = 81\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="is written in UTF-16") as caught:
        load(file)
    assert caught.value.hint == "save it as UTF-8"


@pytest.mark.parametrize("service", ["llamafile-mgr", "llamafile-mgr-serve", "llamafile-mgr-head-svc"])
def test_what_kubernetes_says_of_services_is_no_setting(file: Path, service: str) -> None:
    assert load(file, **service_links(service)) == load(file)


def test_a_default_file_that_cannot_be_read_is_no_file_that_is_not_there(tmp_path: Path) -> None:
    assert load(tmp_path / "none" / "config.toml").source is None
    (tmp_path / "file").write_text("")
    assert load(tmp_path / "file" / "config.toml").source is None
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load(tmp_path)
