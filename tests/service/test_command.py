"""``service`` on the command line, where nothing of the system may be touched: dry runs and refusals."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from llamafile_mgr.errors import NotFoundError, ServiceError
from llamafile_mgr.paths import Paths, resolve_paths
from llamafile_mgr.service.applying import (
    Change,
    apply_install,
    apply_uninstall,
    check_installed,
    compare,
    run_command,
)
from llamafile_mgr.service.definition import Scope, Steps, UnitFile
from llamafile_mgr.service.finding import find_target
from tests.support.service import environment, program, run_program


def dry_run(home: Path, *arguments: str, **extra: str) -> dict[str, object]:
    result = run_program(home, "service", "install", *arguments, "--dry-run", "--json", extra=extra)
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_dry_run_writes_nothing(model_home: Path, tmp_path: Path) -> None:
    result = run_program(
        model_home,
        *("service", "install", "--embed", "all-minilm-l6-v2", "--port", "9999", "--dry-run"),
        extra={"XDG_CONFIG_HOME": str(tmp_path), "HF_TOKEN": "hf_secret", "SSL_CERT_FILE": "/etc/our-ca.pem"},
    )
    assert result.returncode == 0, result.stderr
    assert f"new: {tmp_path}/systemd/user/llamafile-mgr.service" in result.stdout
    assert "would run: systemctl --user daemon-reload" in result.stdout
    assert " serve --embed all-minilm-l6-v2 --port 9999" in result.stdout
    assert "ListenStream=127.0.0.1:9999" in result.stdout
    assert f"LLAMAFILE_MGR_HOME={model_home}" in result.stdout
    assert "SSL_CERT_FILE=/etc/our-ca.pem" in result.stdout  # remotes of the service are trusted by it
    assert "hf_secret" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_settings_and_files_become_absolute(model_home: Path, minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[serve]\nport = 7070\nhost = "127.0.0.1"\n')
    (tmp_path / "all-minilm-l6-v2.gguf").symlink_to(minilm)
    argv = ["--config", "mine.toml", "service", "install", "./all-minilm-l6-v2.gguf", "--dry-run"]
    result = subprocess.run(
        program(*argv), env=environment(model_home), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    wanted = f"--config {tmp_path}/mine.toml serve {tmp_path}/all-minilm-l6-v2.gguf"
    assert wanted in result.stdout
    assert "ListenStream=127.0.0.1:7070" in result.stdout


def test_every_model_is_told(model_home: Path, tiny_generator: Path, tmp_path: Path) -> None:
    """Flags are repeated in the service's; a role without one is left to the settings, and looked up now."""
    (tmp_path / "one.gguf").symlink_to(tiny_generator)
    (tmp_path / "two.gguf").symlink_to(tiny_generator)

    def install(settings: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "mine.toml").write_text(f"[serve]\n{settings}\n")
        argv = program("--config", "mine.toml", "service", "install", *arguments, "--dry-run")
        environ = environment(model_home)
        return subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    flags = ("--generate", "two.gguf", "--generate", "one.gguf", "--rerank", "")
    result = install("embed = 'all-minilm-l6-v2'", *flags)
    assert result.returncode == 0, result.stderr
    assert (
        f'serve --generate {tmp_path}/two.gguf --generate {tmp_path}/one.gguf --rerank ""\n' in result.stdout
    )
    assert "--embed" not in result.stdout
    unknown = install("embed = ['all-minilm-l6-v2', 'other']", *flags)
    assert (unknown.returncode, "other is not in the store" in unknown.stderr) == (4, True)
    # The service would look for it in another directory, as for a file of keys.
    result = install("embed = 'all-minilm-l6-v2'\nkeys_file = 'keys'")
    assert result.returncode == 3
    assert "the settings name keys, and the service starts in another directory" in result.stderr
    assert install(f"embed = 'all-minilm-l6-v2'\nkeys_file = '{tmp_path}/keys'").returncode == 0
    loose = install("embed = 'all-minilm-l6-v2'\ngenerate = './one.gguf'")
    assert (loose.returncode, "write its whole path" in loose.stderr) == (3, True)
    (tmp_path / "chat.jinja").write_text("x")
    for beside in (
        "[engines]\nprograms = './my-server'",
        "[models.'two']\nchat_template = 'chat.jinja'",
        "[models.'two']\nlora = 'one.gguf'",
    ):
        (tmp_path / "my-server").touch()
        loose = install(beside, "--generate", "two.gguf")
        assert (loose.returncode, "write its whole path" in loose.stderr) == (3, True), loose.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no model was named"),
        (("--embed", "no-such-model"), 4, "no-such-model"),
        (("--embed", "all-minilm-l6-v2", "--host", "0.0.0.0"), 3, "no API keys"),
        (("--embed", "all-minilm-l6-v2", "--name", "../x"), 3, "cannot be the name of a service"),
        (("--embed", "all-minilm-l6-v2", "--run-as", "root"), 16, "drop --run-as"),
        (("--embed", "all-minilm-l6-v2", "--system", "--run-as", "no-such-user"), 16, "no user no-such-user"),
    ],
)
def test_a_refusal(model_home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = run_program(model_home, "service", "install", *arguments, "--dry-run")
    assert (result.returncode, words in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("action", ["start", "stop", "status", "logs"])
def test_what_is_not_installed_cannot_be_asked(model_home: Path, tmp_path: Path, action: str) -> None:
    extra = {"XDG_CONFIG_HOME": str(tmp_path)}
    result = run_program(model_home, "service", action, extra=extra)
    assert result.returncode == 4
    assert "there is no service llamafile-mgr" in result.stderr


def test_removing_nothing_is_no_error(model_home: Path, tmp_path: Path) -> None:
    extra = {"XDG_CONFIG_HOME": str(tmp_path)}
    result = run_program(model_home, "service", "uninstall", extra=extra)
    assert (result.returncode, result.stdout) == (0, "there is no service llamafile-mgr\n")


def test_without_a_service_manager_it_says_so(model_home: Path, tmp_path: Path) -> None:
    extra = {"XDG_CONFIG_HOME": str(tmp_path), "PATH": str(tmp_path)}
    result = run_program(model_home, "service", "install", "--embed", "all-minilm-l6-v2", extra=extra)
    assert result.returncode == 16
    assert "systemd does not run this system" in result.stderr


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Failed to connect to bus: No medium found", "loginctl enable-linger"),
        ("Failed to connect to user scope bus via local transport", "loginctl enable-linger"),
        ("Failed to reload daemon: Access denied", "sudo"),
        ("Interactive authentication required.", "sudo"),
    ],
)
def test_a_refusal_of_the_manager_is_explained(tmp_path: Path, said: str, hint: str) -> None:
    tool = tmp_path / "manager"
    tool.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(ServiceError, match=said.split(":")[0]) as caught:
        run_command([str(tool)])
    assert hint in (caught.value.hint or "")


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    one, two = UnitFile(tmp_path / "d" / "one", b"a\nb\n"), UnitFile(tmp_path / "d" / "two", b"x\n")
    steps = Steps((one, two), changed=(("change",),), written=(("write",),), ensure=(("ensure",),))
    ran: list[str] = []
    apply_install(steps, [compare(file) for file in steps.files], lambda argv: ran.append(argv[0]))
    assert (one.path.read_bytes(), ran) == (b"a\nb\n", ["write", "ensure"])
    assert {each.change for each in [compare(file) for file in steps.files]} == {Change.UNCHANGED}
    ran.clear()
    apply_install(steps, [compare(file) for file in steps.files], lambda argv: ran.append(argv[0]))
    assert ran == ["ensure"]
    ran.clear()
    steps = Steps((UnitFile(one.path, b"a\nc\n"), two), steps.changed, steps.written, steps.ensure)
    changes = [compare(file) for file in steps.files]
    assert [(each.change, each.lines) for each in changes] == [
        (Change.CHANGED, ("-b", "+c")),
        (Change.UNCHANGED, ()),
    ]
    apply_install(steps, changes, lambda argv: ran.append(argv[0]))
    assert ran == ["change", "write", "ensure"]
    assert one.path.stat().st_mode & 0o777 == 0o644


def test_a_removal_leaves_no_file(tmp_path: Path) -> None:
    file = UnitFile(tmp_path / "one", b"")
    steps = Steps((file,), before=(("stop",),), removed=(("reload",),))
    ran: list[str] = []
    with pytest.raises(NotFoundError):
        check_installed("x", steps.files)
    assert apply_uninstall(steps, lambda argv: ran.append(argv[0])) == []
    file.path.write_bytes(b"")
    check_installed("x", steps.files)
    assert apply_uninstall(steps, lambda argv: ran.append(argv[0])) == [file.path]
    assert (ran, file.path.exists()) == (["stop", "reload"], False)


def test_a_system_service_needs_a_user() -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": "/x"})
    with pytest.raises(ServiceError, match="whose models"):
        find_target(Scope.SYSTEM, None, paths, {})
    target = find_target(Scope.SYSTEM, None, paths, {"SUDO_USER": "daemon"})
    assert (target.user, target.user_id) == ("daemon", 1)


def test_another_users_places_are_those_that_they_would_get(tmp_path: Path) -> None:
    """The service's directories are what ``resolve_paths`` answers that user, without a login session."""
    import pwd

    me = pwd.getpwuid(os.getuid())
    target = find_target(Scope.SYSTEM, me.pw_name, Paths(*[tmp_path] * 5), {})
    code = "from llamafile_mgr.paths import resolve_paths; print(resolve_paths())"
    variables = {
        "HOME": me.pw_dir,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PATH": os.environ["PATH"],
    }
    said = subprocess.run(
        [*program()[:1], "-c", code],
        env={**environment(tmp_path), **variables, "LLAMAFILE_MGR_HOME": "", "XDG_RUNTIME_DIR": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == repr(target.paths)
