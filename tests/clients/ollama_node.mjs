// ollama-js, unchanged: an error must be a text, or it prints [object Object].
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const many = await ollama.embed({ model: "m", input: ["hello world", "a"] });
if (many.embeddings.length !== 2 || many.embeddings[0].length !== 384) throw new Error("wrong vectors");
const old = await ollama.embeddings({ model: "m", prompt: "hello world" });
if (old.embedding.some((x, i) => Math.abs(x - many.embeddings[0][i]) > 1e-4)) throw new Error("they differ");
if ((await ollama.list()).models.length === 0) throw new Error("no models");
let last;
for await (const part of await ollama.chat({
  model: "m", messages: [{ role: "user", content: "Say hello." }], stream: true, options: { num_predict: 4 },
})) last = part;
if (!last.done) throw new Error("the stream has no end");
try {
  await ollama.show({ model: "no-such-model" });
} catch (error) {
  if (!error.message.includes("not found")) throw error;
}
