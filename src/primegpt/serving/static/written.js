// What a checkpoint of any run makes of a prompt, as it comes: { text, rest }, rest being what the model has added.

import { ask, stream } from "./api.js";
import { state, vocabularyOf } from "./state.js";

export async function* written(run, step, prompt, settings, signal) {
  const { genres, emotions } = state.runs[run];
  const labels = { genre: among(genres, prompt.genre), emotion: among(emotions, prompt.emotion) };
  const words = await vocabularyOf(run);
  const { ids } = await ask("encode", { run, step, text: prompt.text, ...labels });
  const decoder = new TextDecoder();
  let rest = "";
  for await (const token of stream("write", { run, step, ids, ...settings }, signal)) {
    if (token.id == null) continue;
    rest += decoder.decode(words.bytes(token.id), { stream: true });
    yield { text: prompt.text, rest };
  }
  yield { text: prompt.text, rest: rest || "(it ends at once)" };
}

const among = (labels, label) => (labels.includes(label) ? label : null);
