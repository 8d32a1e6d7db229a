"""What settings ask for, seen on real engines: in their answers and in their memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import psutil
import pytest

from llamafile_mgr.config_reading import load_config
from llamafile_mgr.launching.local_plans import make_plans
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.plans import Plan
from tests.integration.test_memory_prediction import MIB, running_engine
from tests.support.llama_programs import find_native
from tests.support.models import write_tiny_generator
from tests.support.service import Service, run_program, running_service, share_store
from tests.support.side_models import data_url, write_adapter, write_projector

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
#: As models that think have it: each answer begins with a thought, also those of before.
THINKING = """\
{%- for m in messages %}<|{{ m['role'] }}|>
{%- if m['role'] == 'assistant' and m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m['content'] }}<|end|>
{%- endfor %}{% if add_generation_prompt %}<|assistant|><think>
{% endif %}"""


@pytest.fixture(scope="module", params=["wheel", "native"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of heads of 32 numbers, what may stand beside it, and the engine to run it with:
    the wheel's, and a native build where this machine has one."""
    path = tmp_path_factory.mktemp("settings")
    write_engine(path, request.param)
    write_tiny_generator(path / "m.gguf", width=128, words=("<think>", "</think>"))
    write_adapter(path / "adapter.gguf", width=128)
    write_projector(path / "projector.gguf", width=128)
    (path / "template.jinja").write_text(TEMPLATE)
    (path / "thinking.jinja").write_text(THINKING)
    return path


def write_engine(folder: Path, name: str) -> None:
    native = find_native() if name == "native" else None
    if name == "native" and native is None:
        pytest.skip("nobody has built llama.cpp here: scripts/build-engines current")
    programs = [str(native)] if native is not None else []
    lines = ("[engines]", f"programs = {json.dumps(programs)}", "search_path = false", "")
    (folder / "engine.toml").write_text("\n".join(lines))


def plan_of(folder: Path, settings: str = "") -> Plan:
    """Plan the model with these lines in its table of a settings file."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    file = home / "config.toml"
    engine = (folder / "engine.toml").read_text()
    file.write_text(f"{engine}[models.m]\nthreads = 1\nslots = 1\n{settings}\n")
    config = load_config(file, environ={})
    wanted = WantedModels((Wanted(str(folder / "m.gguf")),))
    (plan,) = make_plans(wanted, config, resolve_paths({"LLAMAFILE_MGR_HOME": str(home)}))
    return plan


@contextmanager
def engine(plan: Plan) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    with running_engine(plan) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        yield process, client


def generate(client: httpx.Client, **more: Any) -> dict[str, Any]:
    body = {"prompt": "hello there", "n_predict": 24, "temperature": 0, "ignore_eos": True}
    reply = client.post("/completion", json={**body, "return_tokens": True, **more})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def render(client: httpx.Client) -> str:
    messages = [{"role": "user", "content": "x"}]
    return str(client.post("/apply-template", json={"messages": messages}).json()["prompt"])


def test_an_adapter_changes_the_answer_and_one_of_no_weight_does_not(folder: Path) -> None:
    file = folder / "adapter.gguf"
    answers = []
    for settings in ("", f'lora = "{file}"', f'lora = [{{file = "{file}", scale = 0.0}}]'):
        with engine(plan_of(folder, settings)) as (_, client):
            answers.append(generate(client)["tokens"])
            listed = client.get("/lora-adapters").json()
            assert len(listed) == (1 if settings else 0)
    assert answers[0] != answers[1]
    assert answers[0] == answers[2]


def test_a_draft_model_drafts_and_leaves_the_answer_as_it_is(folder: Path) -> None:
    with engine(plan_of(folder)) as (_, client):
        plain = generate(client)
    settings = f'draft = "{folder / "m.gguf"}"\nengine_args = ["--spec-draft-n-max=5"]'
    with engine(plan_of(folder, settings)) as (_, client):
        drafted = generate(client)
    assert drafted["tokens"] == plain["tokens"]
    assert "draft_n" not in plain["timings"]
    # It is its own model, so all that it guesses is right.
    assert drafted["timings"]["draft_n"] == drafted["timings"]["draft_n_accepted"] > 5


def test_templates_from_a_file_and_by_name(folder: Path) -> None:
    seen = []
    for template in (str(folder / "template.jinja"), "chatml", "llama2"):
        with engine(plan_of(folder, f'chat_template = "{template}"')) as (_, client):
            seen.append(render(client))
    assert seen[0] == "<user>x"
    assert seen[1].startswith("<|im_start|>user\nx<|im_end|>")
    assert seen[2] == "[INST] x [/INST]"


def test_a_budget_of_thinking_is_taken(folder: Path) -> None:
    """Noise never thinks as a model does, so that only the start with a budget is seen here, not its end."""
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 40, "ignore_eos": True}
    for budget in (-1, 8):
        settings = f'chat_template = "{folder / "thinking.jinja"}"\nreasoning_budget = {budget}'
        plan = plan_of(folder, settings)
        assert plan.settings.asked[-2:] == ("--reasoning-budget", str(budget))
        with engine(plan) as (_, client):
            reply = client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            message = reply.json()["choices"][0]["message"]
            assert message.get("reasoning_content") or message["content"]


def test_yarn_takes_texts_longer_than_the_model_was_trained_for(folder: Path) -> None:
    long = "a b " * 300  # 1,200 tokens, where the model was trained for 512
    with engine(plan_of(folder, "context = 2048")) as (_, client):
        assert client.post("/completion", json={"prompt": long, "n_predict": 2}).status_code == 400
    with engine(plan_of(folder, "context = 2048\nyarn = {scale = 4.0}")) as (_, client):
        assert generate(client, prompt=long)["tokens_evaluated"] > 1_000


def test_images_are_seen_with_a_projector(folder: Path) -> None:
    with engine(plan_of(folder, f'mmproj = "{folder / "projector.gguf"}"')) as (process, client):
        props = client.get("/props").json()
        assert props["modalities"]["vision"] is True
        answers = {red: see(client, red) for red in (10, 250)}
        assert answers[10] != answers[250]
        assert see(client, 10) == answers[10]
        plan = plan_of(folder, f'mmproj = "{folder / "projector.gguf"}"')
        assert plan.memory is not None
        assert process.memory_info().rss <= plan.memory.host


def see(client: httpx.Client, red: int) -> str:
    image = {"type": "image_url", "image_url": {"url": data_url(red)}}
    content = [image, {"type": "text", "text": "what is it?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] > 10
    return str(reply.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 700 million parameters, all zero, of which the disk holds only the header."""
    folder = tmp_path_factory.mktemp("large")
    write_engine(folder, "wheel")
    return write_sparse_llama(folder / "m.gguf")


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_the_cache_is_of_the_type_and_the_memory_as_predicted(large: Path, kind: str) -> None:
    """At 32,768 tokens, without what old conversations may take later: between 1.0 and 1.3 times the real."""
    settings = f'context = 32768\ncache_type = "{kind}"\nengine_args = ["-fa", "on", "--cache-ram", "0"]'
    plan = plan_of(large.parent, settings)
    assert plan.memory is not None
    predicted = plan.memory.host - plan.memory.prompt_cache
    with engine(plan) as (process, client):
        generate(client, n_predict=4)
        taken = process.memory_info().rss
    share = predicted / taken
    figures = f"{kind}: predicted {predicted / MIB:.0f}, taken {taken / MIB:.0f} MiB: {share:.3f}"
    print(figures)
    assert 1.0 <= share <= 1.3, figures


def test_serve_with_settings(model_home: Path, folder: Path, tmp_path: Path) -> None:
    """Images through the OpenAI and the Ollama dialect, and a flag that the engine would not survive."""
    home = tmp_path / "home"
    share_store(model_home, home)
    settings = home / "config.toml"
    engine = (folder / "engine.toml").read_text()
    table = f'{engine}[models.m]\nmmproj = "{folder / "projector.gguf"}"\n'
    settings.write_text(table + 'engine_args = ["--seed", "7"]\n')
    with running_service(home, "--generate", str(folder / "m.gguf")) as service:
        assert ask_image(service, 10) != ask_image(service, 250)
        assert ollama_image(service, 10) != ollama_image(service, 250)
        status = run_program(home, "status", "--json")
        (model,) = json.loads(status.stdout)["models"]
        assert "--mmproj" in model["argv"]
        assert {"mmproj", "engine_args"} <= {reason["setting"] for reason in model["reasons"]}
    settings.write_text(table + 'engine_args = ["--host=0.0.0.0"]\n')
    refused = run_program(home, "serve", "--generate", str(folder / "m.gguf"))
    assert refused.returncode != 0
    assert "models.m.engine_args: --host is not passed on" in refused.stderr
    assert "the address is chosen by this program" in refused.stderr


def test_an_image_for_a_model_that_sees_none_is_the_callers_fault(service: Service) -> None:
    content = [{"type": "image_url", "image_url": {"url": data_url(10)}}, {"type": "text", "text": "x"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert "mmproj" in reply.json()["error"]["message"]


def ask_image(service: Service, red: int) -> str:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        return see(client, red)


def ollama_image(service: Service, red: int) -> str:
    image = data_url(red).partition(",")[2]
    assert base64.b64decode(image)
    body = {
        "messages": [{"role": "user", "content": "what is it?", "images": [image]}],
        "stream": False,
        "options": {"num_predict": 12, "temperature": 0},
    }
    reply = httpx.post(f"{service.url}/api/chat", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["message"]["content"])


def test_an_adapter_of_an_embedding_model_has_a_space_of_its_own(
    model_home: Path, minilm: Path, tmp_path: Path
) -> None:
    """MiniLM with an adapter becomes ready without its golden vectors, and says that it is another space."""
    home = tmp_path / "home"
    share_store(model_home, home)
    adapter = write_adapter(tmp_path / "a.gguf", width=384, architecture="bert")
    spaces = []
    vectors = []
    for settings in ("", f'lora = [{{file = "{adapter}", scale = 0.001}}]\n'):
        (home / "config.toml").write_text(f'[models."all-minilm-l6-v2"]\nreplicas = 1\n{settings}')
        with running_service(home, "--embed", "all-minilm-l6-v2") as service:
            reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": "hello there"}, timeout=60)
            spaces.append(reply.headers["x-vector-space"])
            vectors.append(np.array(reply.json()["data"][0]["embedding"]))
    assert spaces[0] != spaces[1]
    assert vectors[0] @ vectors[1] < 0.999999


def write_sparse_llama(path: Path) -> Path:
    """Write a llama of 700 million zero parameters in half floats; its tensors are a hole in the file."""
    width, hidden, blocks, heads, kv_heads = 1536, 6144, 16, 12, 4
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{n:02X}>".encode() for n in range(256))]
    tokens += [f"t{n}".encode() for n in range(32_000 - len(tokens))]
    numbers = {"context_length": 32768, "embedding_length": width, "block_count": blocks}
    numbers |= {"feed_forward_length": hidden, "attention.head_count": heads, "vocab_size": len(tokens)}
    numbers |= {"attention.head_count_kv": kv_heads, "rope.dimension_count": width // heads}
    for name, value in numbers.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *([6] * 256), *([1] * (len(tokens) - 259))])
    kv = width // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    shapes["output"] = (len(tokens), width)
    for block in range(blocks):
        names = {"attn_q": (width, width), "attn_k": (kv, width), "attn_v": (kv, width)}
        names |= {"attn_output": (width, width), "ffn_gate": (hidden, width), "ffn_up": (hidden, width)}
        names |= {"ffn_down": (width, hidden)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in names.items()}
        shapes |= {f"blk.{block}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    size = 0
    for name, shape in shapes.items():
        kind = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        count = int(np.prod(shape)) * kind.itemsize
        writer.add_tensor_info(f"{name}.weight", shape, kind, count)
        size += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as stream:
        end = stream.seek(0, 2)
        stream.truncate(-(-end // 32) * 32 + size)
    return path
