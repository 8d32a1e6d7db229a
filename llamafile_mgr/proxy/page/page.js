"use strict";
// The status page: asks ui/status.json every two seconds while it is seen, and builds everything from text
// nodes, so that nothing a client sent is ever read as markup.

const PERIOD = 2000;
const $ = (id) => document.getElementById(id);
let key = "";
let model = "";

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function headers() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const bytes = (n) => (n === null ? "unknown" : n < 1e9 ? `${Math.round(n / 1e6)} MB` : `${(n / 1e9).toFixed(1)} GB`);
const latency = (s) => (s === null ? "–" : s < 1 ? `≤ ${Math.round(s * 1000)} ms` : `≤ ${s} s`);
const level = (state) => (state === "ready" ? "good" : state === "failed" ? "bad" : "busy");

function facts(pairs) {
  return element("dl", {}, ...pairs.map(([name, value]) =>
    element("div", {}, element("dt", { textContent: name }),
      element("dd", { textContent: value, className: name === "Vector space" ? "code" : "" }))));
}

function places(engines, which) {
  const shown = engines.map((engine) => engine[which]).filter((run) => run && run.device).map((run) =>
    (run.layers ? `${run.device}, ${run.layers[0]} of ${run.layers[1]} layers` : run.device));
  return [...new Set(shown)].join("; ") || "–";
}

function showModel(entry) {
  const causes = entry.engines.filter((engine) => engine.cause)
    .map((engine) => element("p", { className: "cause", textContent: `${engine.name}: ${engine.cause}` }));
  const slow = entry.engines.filter((engine) => engine.slow).map((engine) => element("p", {
    className: "cause",
    textContent: `${engine.name} is slow: ${Math.round(100 * engine.speed)} % of the best that it has shown`,
  }));
  const differs = entry.engines.flatMap((engine) => engine.deviations.map((text) => element("p", {
    className: "cause", textContent: `${engine.name} does not run as planned: ${text}`,
  })));
  const state = entry.ready ? "ready" : entry.engines.length ? entry.engines[0].state : "unloaded";
  const memory = entry.engines.reduce((sum, engine) => sum + (engine.memory_bytes || 0), 0);
  return element("article", { className: "card" },
    element("div", { className: "row spread" },
      element("div", { className: "row" },
        element("h3", { textContent: entry.model }), element("span", { className: "tag", textContent: entry.role })),
      element("span", { className: `state ${level(state)}`, textContent: state })),
    facts([
      ["Requests", `${entry.requests}`],
      ["Throughput", entry.tokens_per_second === null ? "–" : `${Math.round(entry.tokens_per_second)} tokens/s`],
      ["Half within", latency(entry.seconds_p50)],
      ["95 % within", latency(entry.seconds_p95)],
      ["Queue", entry.queue.items ? `${entry.queue.waiting} + ${entry.queue.active} running` : "empty"],
      ["Memory", bytes(memory)],
      ["Restarts", `${entry.engines.reduce((sum, engine) => sum + engine.restarts, 0)}`],
      ["Engine", entry.engine_family],
      ["Computes on", places(entry.engines, "actual")],
      ["Planned on", places(entry.engines, "planned")],
      ...(entry.dimensions ? [["Dimensions", `${entry.dimensions}`]] : []),
      ...(entry.max_tokens ? [["Longest text", `${entry.max_tokens} tokens`]] : []),
      ...(entry.vector_space ? [["Vector space", entry.vector_space]] : []),
    ]), ...causes, ...slow, ...differs);
}

function showErrors(errors) {
  if (!errors.length) return element("p", { className: "note", textContent: "None since the start." });
  const rows = errors.map((error) => element("tr", {},
    element("td", { textContent: new Date(error.time * 1000).toLocaleTimeString() }),
    element("td", { textContent: `${error.status}` }),
    element("td", { textContent: error.path }),
    element("td", { textContent: error.message })));
  const titles = ["Time", "Status", "Route", "What was wrong"]
    .map((title) => element("th", { scope: "col", textContent: title }));
  return element("div", { className: "card" }, element("table", {},
    element("caption", { textContent: "The latest come first" }),
    element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)));
}

function snippets(names) {
  const base = location.origin;
  const embed = names.embed || "MODEL";
  const chat = names.generate || "MODEL";
  return [
    ["curl", `curl ${base}/v1/embeddings -H 'content-type: application/json' \\\n  -d '{"model": "${embed}", "input": "Some text"}'`],
    ["Python, openai", `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key="none")\nclient.embeddings.create(model="${embed}", input=["Some text"])\nclient.chat.completions.create(model="${chat}", messages=[{"role": "user", "content": "Hello"}])`],
    ["JavaScript, openai", `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}/v1", apiKey: "none" });\nawait client.embeddings.create({ model: "${embed}", input: "Some text" });`],
    ["LangChain", `from langchain_community.embeddings import LlamafileEmbeddings\n\nLlamafileEmbeddings(base_url="${base}").embed_query("Some text")`],
    ["LlamaIndex", `from llama_index.embeddings.llamafile import LlamafileEmbedding\n\nLlamafileEmbedding(base_url="${base}").get_query_embedding("Some text")`],
    ["Ollama clients", `import ollama\n\nollama.Client(host="${base}").embed(model="${embed}", input="Some text")`],
    ["text-embeddings-inference clients", `curl ${base}/embed -H 'content-type: application/json' -d '{"inputs": ["Some text"]}'`],
  ];
}

function showSnippet([title, code], index) {
  const button = element("button", { type: "button", className: "small", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy the code for ${title}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return element("details", { open: index === 0 }, element("summary", { textContent: title }),
    element("pre", { tabIndex: 0 }, element("code", { textContent: code })), button);
}

let lastNames = "";
function show(status) {
  const ready = status.models.filter((entry) => entry.ready).length;
  $("summary").textContent = `${ready} of ${status.models.length} models ready · up ${duration(status.uptime_seconds)}`;
  $("models").replaceChildren(...status.models.map(showModel));
  $("errors").replaceChildren(showErrors(status.recent_errors));
  $("footer").textContent = `version ${status.version} · proxy memory ${bytes(status.memory_bytes)}`;
  const names = {};
  for (const entry of status.models) names[entry.role] = names[entry.role] || entry.model;
  model = names.embed || "";
  $("compare").disabled = !model;
  if (JSON.stringify(names) !== lastNames) {
    lastNames = JSON.stringify(names);
    $("snippets").replaceChildren(...snippets(names).map(showSnippet));
  }
}

async function refresh() {
  try {
    const reply = await fetch("ui/status.json", { headers: headers(), cache: "no-store" });
    $("key-form").hidden = reply.status !== 401 && reply.status !== 403;
    if (reply.ok) show(await reply.json());
    else $("summary").textContent = reply.status === 401 ? "a key is needed" : `the proxy answered ${reply.status}`;
  } catch {
    $("summary").textContent = "the proxy does not answer";
  }
}

async function compare(event) {
  event.preventDefault();
  const output = $("similarity");
  $("compare").disabled = true;
  output.textContent = "embedding …";
  try {
    const reply = await fetch("v1/embeddings", {
      method: "POST",
      headers: { "content-type": "application/json", ...headers() },
      body: JSON.stringify({ model, input: [$("left").value, $("right").value], encoding_format: "float" }),
    });
    const body = await reply.json();
    if (!reply.ok) throw new Error(body.error.message);
    const [left, right] = body.data.map((item) => item.embedding);
    const cosine = left.reduce((sum, value, index) => sum + value * right[index], 0);
    output.textContent = `cosine ${cosine.toFixed(3)}`;
    $("meter").value = Math.max(0, cosine);
    $("meter").hidden = false;
  } catch (error) {
    output.textContent = error.message;
    $("meter").hidden = true;
  }
  $("compare").disabled = false;
}

$("try").addEventListener("submit", compare);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  refresh();
});
setInterval(() => { if (!document.hidden) refresh(); }, PERIOD);
refresh();
