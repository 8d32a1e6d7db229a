// openai-node, unchanged: it asks for base64 by default and decodes floats into garbage.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "x" });
const one = await client.embeddings.create({ model: "m", input: "hello world" });
const floats = await client.embeddings.create({ model: "m", input: ["hello world"], encoding_format: "float" });
const [left, right] = [one.data[0].embedding, floats.data[0].embedding];
if (left.length !== 384 || left.some((x, i) => Math.abs(x - right[i]) > 1e-4)) {
  throw new Error(`wrong vector of ${left.length} dimensions`);
}
const stream = await client.chat.completions.create({
  model: "x", messages: [{ role: "user", content: "Say hello." }], max_tokens: 4, stream: true,
});
let chunks = 0;
for await (const chunk of stream) chunks += chunk.choices.length;
if (chunks === 0) throw new Error("an empty stream");
