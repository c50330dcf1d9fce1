// A second run beside the one that is asked: in Write it goes on from the same prompt, in Look it reads the same text.

import { ask, askOnce } from "./api.js";
import { $, count, h } from "./dom.js";
import { Sheet } from "./sheet.js";
import { asked, emit, latest, model, on, state, stepOf, vocabularyOf } from "./state.js";
import { written } from "./written.js";

const sheet = new Sheet($("other-look-sheet"), (node) => sheet.mark(node));
let ending = null; // ends the other's writing
let shown = null; // for which run and text it has written

export function startBeside() {
  $("versus").hidden = state.runs.length < 2;
  $("beside").addEventListener("change", () => {
    state.beside = $("beside").value === "" ? null : Number($("beside").value);
    emit("beside");
  });
  on("model", () => {
    if (state.beside === state.run) state.beside = undefined;
    const none = h("option", { value: "" }, "no other");
    $("beside").replaceChildren(none, ...others().map(({ run, name }) => h("option", { value: run }, name)));
  });
  on("model view beside", () => {
    $("beside").value = other()?.run ?? "";
    for (const view of ["write", "look"]) $(`other-${view}`).hidden = !other() || state.view !== view;
  });
  on("drawn", write);
  on("beside model", () => {
    ending?.abort();
    shown = null;
  });
  on("beside model text view", () => state.view === "write" && shown !== wanted() && write(state.tree.about));
  on("text view beside", () => state.view === "look" && read());
}

const others = () => state.runs.filter(({ run }) => run !== state.run);

// Not asked for by anybody, there is one in Training alone: elsewhere it takes time.
export function other() {
  if (state.beside === undefined) return state.view === "training" ? (others()[0] ?? null) : null;
  return state.beside === null ? null : state.runs[state.beside];
}

function title(view, run) {
  const name = h("span", { "--own": own(run) }, run.name);
  $(`other-${view}-title`).replaceChildren(name, ` step ${count(stepOf(run))}`);
}

// The colour of a run, wherever it stands.
export const own = ({ run }) => `var(--run-${run % 6})`;

const wanted = () => JSON.stringify([other()?.run, state.tree.about?.id, state.tree.about?.prompt]);

const write = latest(async (current, text) => {
  ending?.abort();
  const run = other();
  if (!run || state.view !== "write") return;
  shown = wanted();
  const mine = (ending = new AbortController());
  title("write", run);
  const show = (...parts) => $("other-write-text").replaceChildren(...parts);
  if (!text) return show("It writes with you.");
  const { prompt, settings, signal } = text;
  signal?.addEventListener("abort", () => mine.abort());
  show("…");
  try {
    for await (const { text, rest } of written(run.run, stepOf(run), prompt, settings, mine.signal)) {
      if (!current()) return mine.abort();
      show(h("i", {}, text), rest);
    }
  } catch (error) {
    if (error.name !== "AbortError" && current()) show(error.message);
  }
});

const read = latest(async (current) => {
  const run = other();
  const ids = state.tree.ids();
  sheet.show([], null);
  $("other-look-status").textContent = "";
  if (!run || ids.length < 2) return;
  title("look", run);
  const { theirs, remark } = await spelt(run, ids);
  if (!current()) return;
  if (remark) return ($("other-look-status").textContent = remark);
  const vocabulary = await vocabularyOf(run.run);
  const place = { run: run.run, step: stepOf(run) };
  const [its, ours] = [await askOnce("look", { ...place, ids: theirs }), await askOnce("look", asked({ ids }))];
  if (!current()) return;
  sheet.show(
    theirs.map((id, at) => ({ id, by: "model", logprob: its.logprobs[at] })),
    vocabulary,
  );
  const [here, there] = [bits(ids, ours, state.vocabulary), bits(theirs, its, vocabulary)];
  $("other-look-status").textContent =
    `${there.toFixed(3)} bits per byte to ${run.name}, ${here.toFixed(3)} to ${model().name}: ` +
    `${there < here ? run.name : model().name} expects this text more.`;
}, (error) => ($("other-look-status").textContent = error.message));

// The ids of the same text for another run; a remark where that run cannot read it as it stands.
async function spelt(run, ids) {
  if (run.fingerprint === model().fingerprint) return { theirs: ids, remark: "" };
  if (run.template !== "text" || model().template !== "text")
    return { remark: "It has learnt another layout of prompts and answers, so it cannot be asked about this text." };
  const text = state.vocabulary.pieces(ids.filter((id) => !state.vocabulary.special.has(id))).join("");
  const { ids: theirs } = await ask("encode", { run: run.run, step: stepOf(run), text });
  const whole = !theirs.includes(run.special["<UNK>"]);
  return { theirs, remark: whole ? "" : "It does not know all characters of this text, so it cannot be asked about it." };
}

function bits(ids, { logprobs }, vocabulary) {
  let [nats, bytes] = [0, 0];
  ids.forEach((id, at) => {
    if (logprobs[at] == null || vocabulary.special.has(id)) return;
    nats -= logprobs[at];
    bytes += vocabulary.bytes(id).length;
  });
  return nats / Math.LN2 / Math.max(1, bytes);
}
