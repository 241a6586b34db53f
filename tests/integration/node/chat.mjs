// What does openai-node make of a stream? Prints {"text", "error", "finish"} as JSON.
//
//   node chat.mjs '{"url": "http://…/v1", "headers": {}, "tokens": 8, "leaveAfter": 0}'
//
// With `leaveAfter`, the stream is aborted after so many chunks.
import OpenAI from "openai";

const settings = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: settings.url, apiKey: "any", maxRetries: 0 });
const said = { text: "", error: "", finish: "" };
try {
  const stream = await client.chat.completions.create(
    {
      model: "sim",
      messages: [{ role: "user", content: "hi" }],
      max_tokens: settings.tokens,
      stream: true,
    },
    { headers: settings.headers },
  );
  let chunks = 0;
  for await (const chunk of stream) {
    said.text += chunk.choices[0]?.delta?.content ?? "";
    said.finish = chunk.choices[0]?.finish_reason ?? said.finish;
    chunks += 1;
    if (chunks === settings.leaveAfter) {
      stream.controller.abort();
    }
  }
} catch (error) {
  said.error = String(error.message);
}
console.log(JSON.stringify(said));
