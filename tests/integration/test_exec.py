"""`exec` as shells run it: shared, counted, ended with its last user, and out of the command's way."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.leased import await_nobody, engines, services, wait_until
from tests.support.llamafiles import pack_fake
from tests.support.service import (
    environment,
    program,
    read_models,
    run_program,
    running_service,
    share_store,
)

MODEL = "all-minilm-l6-v2"
#: Says that it runs and where, then waits for leave to end.
WAIT = (
    'echo "$LLAMAFILE_URL" > "$0.$$.new"; mv "$0.$$.new" "$0.$$"; while [ ! -e "$0.go" ]; do sleep 0.1; done'
)

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(model_home: Path, tmp_path: Path) -> Path:
    """Return a home of its own with the model in its store; one engine serves it."""
    share_store(model_home, tmp_path / "home")
    (tmp_path / "home" / "config.toml").write_text(f'[models."{MODEL}"]\nreplicas = 1\nthreads = 1\n')
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Return what starts an ``exec`` in the background; all are ended."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            program("exec", *arguments), env=environment(home), stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()
    for left in [*services(home), *engines(home)]:
        left.kill()


def waiting(tmp_path: Path, name: str = "mark") -> list[str]:
    """Return a command that ends when ``NAME.go`` is made; it leaves its address in ``NAME.PID``."""
    return ["--", "sh", "-c", WAIT, str(tmp_path / name)]


def running(tmp_path: Path, name: str = "mark") -> dict[int, str]:
    """Return the address that each waiting command was given, by process id."""
    found = (path for path in tmp_path.glob(f"{name}.*") if path.suffix[1:].isdigit())
    return {int(path.suffix[1:]): path.read_text().strip() for path in found}


def run_exec(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(home, "exec", "--embed", MODEL, "--quiet", "--", *arguments)


def test_eight_at_once_share_one_engine_and_leave_none(home: Path, start: Start, tmp_path: Path) -> None:
    users = [start("--embed", MODEL, *waiting(tmp_path)) for _ in range(8)]
    wait_until(lambda: len(running(tmp_path)) == 8, "not all came up", 40)
    assert len(services(home)) == 1
    assert len(engines(home)) == 1
    [url] = set(running(tmp_path).values())
    assert httpx.post(f"{url}/v1/embeddings", json={"input": "hello"}).status_code == 200
    status = json.loads(run_program(home, "status", "--json").stdout)
    assert status["users"] == 8
    (tmp_path / "mark.go").touch()
    assert [user.wait(20) for user in users] == [0] * 8
    said = [user.communicate()[1] for user in users]
    assert sum("starting" in text for text in said) == 1
    await_nobody(home)


def test_a_user_that_is_killed_is_noticed(home: Path, start: Start, tmp_path: Path) -> None:
    first = start("--embed", MODEL, *waiting(tmp_path))
    second = start("--embed", MODEL, *waiting(tmp_path))
    wait_until(lambda: len(running(tmp_path)) == 2, "not all came up", 40)
    # The command took the place of the `exec` that was started.
    assert set(running(tmp_path)) == {first.pid, second.pid}
    first.kill()
    assert first.wait(5) == -signal.SIGKILL
    wait_until(lambda: json.loads(run_program(home, "status", "--json").stdout)["users"] == 1, "not noticed")
    assert len(engines(home)) == 1
    second.kill()
    second.wait(5)
    await_nobody(home)


def test_a_service_that_is_killed_takes_its_engines_along(home: Path, start: Start, tmp_path: Path) -> None:
    user = start("--embed", MODEL, *waiting(tmp_path))
    wait_until(lambda: len(running(tmp_path)) == 1, "did not come up", 40)
    [service] = services(home)
    service.kill()
    await_nobody(home)
    assert user.poll() is None
    # Another user is not kept waiting for the dead.
    assert run_exec(home, "true").returncode == 0
    (tmp_path / "mark.go").touch()
    assert user.wait(10) == 0
    await_nobody(home)


def test_a_starter_that_is_killed_leaves_nothing_for_long(home: Path, start: Start, tmp_path: Path) -> None:
    starter = start("--embed", MODEL, *waiting(tmp_path))
    wait_until(lambda: bool(services(home)), "no service was started")
    starter.kill()
    other = start("--embed", MODEL, *waiting(tmp_path))
    wait_until(lambda: other.pid in running(tmp_path), "the next user was not served", 40)
    (tmp_path / "mark.go").touch()
    assert other.wait(10) == 0
    await_nobody(home)


def test_exit_codes_and_signals_are_the_commands_own(home: Path, start: Start, tmp_path: Path) -> None:
    # One user keeps the service, so that the others join it.
    start("--embed", MODEL, *waiting(tmp_path))
    wait_until(lambda: len(running(tmp_path)) == 1, "did not come up", 40)
    assert run_exec(home, "sh", "-c", "exit 7").returncode == 7
    trap = 'trap "exit 9" TERM; echo up; while :; do sleep 0.1; done'
    for script, number, code in ((trap, signal.SIGTERM, 9), ("echo up; exec sleep 60", signal.SIGINT, -2)):
        argv = program("exec", "--embed", MODEL, "--quiet", "--", "sh", "-c", script)
        with subprocess.Popen(argv, env=environment(home), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(number)
            assert process.wait(10) == code
    shell = " ".join(program("exec", "--embed", MODEL, "--quiet", "--", "sh", "-c", "'kill -TERM $$'"))
    result = subprocess.run(
        ["sh", "-c", f"{shell}; echo $?"], env=environment(home), capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "143"
    # Python ignores SIGPIPE; a command that writes into a closed pipe must still end by it.
    pipe = run_exec(home, "sh", "-c", "(yes; echo $? >&2) | head -1")
    assert pipe.stderr.strip() == "141"


def test_the_environment(home: Path, tiny_generator: Path) -> None:
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    result = run_program(
        home,
        *("exec", "--embed", MODEL, "--generate", str(tiny_generator), "--", sys.executable, "-c", code),
        extra={"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org", "OPENAI_API_KEY": "secret"},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    url = found["LLAMAFILE_URL"]
    assert found["OPENAI_BASE_URL"] == f"{url}/v1"
    assert found["OLLAMA_HOST"] == url
    assert found["OPENAI_API_KEY"] == "none"
    assert found["LLAMAFILE_EMBED_MODEL"] == MODEL
    assert found["LLAMAFILE_GENERATE_MODEL"] == tiny_generator.stem
    assert found["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
    assert found["no_proxy"] == found["NO_PROXY"]
    assert found["HTTP_PROXY"] == "http://127.0.0.1:9"
    assert "ready after" in result.stderr
    await_nobody(home)


def test_a_key_of_the_settings_reaches_the_command(home: Path) -> None:
    keys = home / "keys"
    keys.write_text(f"admin {'a' * 20}\nscripts {'s' * 20}\n")
    keys.chmod(0o600)
    (home / "config.toml").write_text(f'[serve]\nkeys_file = "{keys}"\n')
    ask = (
        'curl -fs -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/models; echo " $OPENAI_API_KEY"'
    )
    result = run_exec(home, "sh", "-c", ask)
    assert result.stdout.endswith(f" {'s' * 20}\n")
    assert MODEL in result.stdout
    await_nobody(home)


def test_a_command_that_cannot_be_run(home: Path, tmp_path: Path) -> None:
    missing = run_program(home, "exec", "--embed", MODEL, "--", "no-such-command")
    assert missing.returncode == 127
    assert missing.stderr == "llamafile-mgr exec: no-such-command: command not found\n"
    plain = tmp_path / "plain"
    plain.write_text("no program")
    refused = run_program(home, "exec", "--embed", MODEL, "--", str(plain))
    assert refused.returncode == 126
    assert not (home / "run").exists()  # nothing was started for it
    assert run_program(home, "exec", "--embed", MODEL).returncode == 2


def test_models_that_cannot_be_served(home: Path, minilm: Path, tmp_path: Path) -> None:
    unknown = run_program(home, "exec", "--embed", "all-minilm-l6", "--", "true")
    assert unknown.returncode == 4
    assert f"did you mean {MODEL}?" in unknown.stderr
    nothing = run_program(home, "exec", "--", "true")
    assert nothing.returncode == 2
    assert "no model was named" in nothing.stderr
    text = tmp_path / "text.gguf"
    text.write_bytes(b"just a text")
    broken = run_program(home, "exec", "--embed", str(text), "--", "true")
    assert broken.returncode == 5
    assert "text.gguf" in broken.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run_program(home, "exec", "--embed", MODEL, "--port", port, "--", "true")
    assert refused.returncode == 13
    assert f"port {port} of 127.0.0.1 is in use" in refused.stderr
    dying = pack_fake(minilm, tmp_path / "dying.llamafile", "--exit", "3")
    failed = run_program(home, "exec", "--embed", str(dying), "--", "true")
    assert failed.returncode == 12, failed.stderr
    assert f"{MODEL} cannot be started" in failed.stderr
    await_nobody(home)


def copy_generators(generator: Path, folder: Path) -> tuple[str, str]:
    """Return the paths of two generation models, ``one`` and ``two``."""
    first, second = (str(shutil.copy(generator, folder / f"{name}.gguf")) for name in ("one", "two"))
    return first, second


def test_each_user_of_two_generators_has_the_default_of_its_own(
    home: Path, tiny_generator: Path, tmp_path: Path
) -> None:
    one, two = copy_generators(tiny_generator, tmp_path)

    def told(*flags: str) -> str:
        show = "echo $LLAMAFILE_GENERATE_MODEL at $LLAMAFILE_URL"
        return run_program(home, "exec", *flags, "--quiet", "--", "sh", "-c", show).stdout.strip()

    for order in ((one, two), (two, one)):
        with running_service(home, "--generate", order[0], "--generate", order[1]) as service:
            first = Path(order[0]).stem
            answer = httpx.post(f"{service.url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
            assert answer.headers["x-model"] == first
            assert told("--generate", one) == f"one at {service.url}"
            assert told("--generate", two) == f"two at {service.url}"
            assert told("--generate", two, "--generate", one) == f"two at {service.url}"
            assert not services(home)
    assert told("--generate", two, "--generate", one).startswith("two at ")
    await_nobody(home)


def test_plan_serve_and_exec_take_the_same_models(home: Path, tiny_generator: Path, tmp_path: Path) -> None:
    one, two = copy_generators(tiny_generator, tmp_path)
    with (home / "config.toml").open("a") as settings:
        settings.write(f'[serve]\nembed = "{MODEL}"\ngenerate = ["{one}", "{two}"]\n')

    def exec_of(*flags: str) -> list[str]:
        ask = 'curl -s "$OPENAI_BASE_URL/models"'
        answer = run_program(home, "exec", *flags, "--quiet", "--", "sh", "-c", ask)
        assert answer.returncode == 0, answer.stderr
        return [model["id"] for model in json.loads(answer.stdout)["data"]]

    third = str(tiny_generator)
    for flags, names in (
        ((), [MODEL, "one", "two"]),
        (("--generate", third), [MODEL, tiny_generator.stem]),
        (("--embed", "", "--generate", two, "--generate", third), ["two", tiny_generator.stem]),
    ):
        planned = json.loads(run_program(home, "plan", "--json", *flags).stdout)["plans"]
        assert [plan["name"] for plan in planned] == names
        with running_service(home, *flags, ready=False) as service:
            served = service.await_event("ready")
            assert [each["model"] for each in served["served"]] == names
            assert served["models"] == {plan["role"]: plan["name"] for plan in reversed(planned)}
            running = read_models(home, service)
            assert [each["reasons"] for each in running] == [plan["reasons"] for plan in planned]
        assert exec_of(*flags) == names
        await_nobody(home)


def test_a_serve_that_a_person_started_is_joined_and_left(home: Path) -> None:
    with running_service(home, "--embed", MODEL) as service:
        result = run_exec(home, "sh", "-c", "echo $LLAMAFILE_URL")
        assert result.stdout.strip() == service.url
        assert not services(home)
        assert service.process.poll() is None
        # Other models need a service of their own.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        other = run_program(
            home, "exec", "--embed", MODEL, "--port", str(port), "--", "sh", "-c", "echo $OLLAMA_HOST"
        )
        assert other.stdout.strip() == f"http://127.0.0.1:{port}"
        await_service_gone(home)
        assert httpx.get(f"{service.url}/health").status_code == 200


def await_service_gone(home: Path) -> None:
    wait_until(lambda: not services(home), "the service did not end")


def test_other_settings_are_another_service(home: Path, start: Start, tmp_path: Path, minilm: Path) -> None:
    copy = Path(shutil.copy(minilm, tmp_path / "copy.gguf"))
    start("--embed", MODEL, *waiting(tmp_path))
    start("--embed", str(copy), *waiting(tmp_path))
    wait_until(lambda: len(running(tmp_path)) == 2, "not all came up", 40)
    assert len(set(running(tmp_path).values())) == 2
    assert len(services(home)) == 2
    (tmp_path / "mark.go").touch()
    await_nobody(home)


def test_a_fixed_port_is_used_again_at_once(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for _ in range(3):
        result = run_program(home, "exec", "--embed", MODEL, "--port", port, "--quiet", "--", "true")
        assert result.returncode == 0, result.stderr
    await_nobody(home)


def test_a_service_outlasts_its_users_when_told_to(home: Path) -> None:
    keep = ("exec", "--embed", MODEL, "--keep", "3", "--", "sh", "-c", "echo $LLAMAFILE_URL")
    first = run_program(home, *keep)
    second = run_program(home, *keep)
    assert first.stdout == second.stdout
    assert len(services(home)) == 1
    await_nobody(home)


def test_waiting_for_a_start_can_be_interrupted(home: Path, minilm: Path, tmp_path: Path) -> None:
    slow = pack_fake(minilm, tmp_path / "slow.llamafile", "--slow-load", "60", "--chatty-load")
    argv = program("exec", "--embed", str(slow), "--", "true")
    with subprocess.Popen(argv, env=environment(home), stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bool(services(home)), "no service was started")
        wait_until(lambda: any((home / "run").glob("control-*")), "no control socket")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    await_nobody(home)
