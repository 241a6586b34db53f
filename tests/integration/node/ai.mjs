// What does the AI SDK make of a stream? Prints {"text", "error", "finish"} as JSON.
//
//   node ai.mjs '{"url": "http://…/v1", "headers": {}, "tokens": 8}'
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const settings = JSON.parse(process.argv[2]);
const provider = createOpenAICompatible({
  name: "sluice",
  baseURL: settings.url,
  apiKey: "any",
  headers: settings.headers,
});
const said = { text: "", error: "", finish: "" };
const result = streamText({
  model: provider("sim"),
  prompt: "hi",
  maxOutputTokens: settings.tokens,
  maxRetries: 0,
  onError: () => {}, // It would be written to the console as well.
});
for await (const part of result.fullStream) {
  if (part.type === "text-delta") {
    said.text += part.text;
  } else if (part.type === "error") {
    said.error = String(part.error?.message ?? part.error);
  } else if (part.type === "finish") {
    said.finish = part.finishReason;
  }
}
console.log(JSON.stringify(said));
