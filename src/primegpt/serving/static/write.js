// Write: a prompt, the text that the model makes of it as it comes, and the token that would come next.

import { ask, askOnce, floats, stream } from "./api.js";
import { Bars } from "./bars.js";
import { $, count, h, later } from "./dom.js";
import { distribution } from "./rules.js";
import { keep, remember } from "./kept.js";
import { moveSeed, setSettings } from "./settings.js";
import { startShare } from "./share.js";
import { Sheet } from "./sheet.js";
import { asked, emit, latest, model, on, state } from "./state.js";
import { Tree } from "./tree.js";

let next = null; // the logits behind the text, from which the bars are redrawn, and the vocabulary they are over
let draft = null; // the ids of a prompt that was typed and not yet written on from
let writing = null; // ends the writing
let lasted = 0; // milliseconds of the last look ahead while a text came
let ahead = null; // the next one
const LOOK_AHEAD = 250; // milliseconds between two, at least

const sheet = new Sheet($("write-sheet"), (node) => emit("look", node));
const bars = new Bars($("bars"), $("bars-note"), (id) => pick(id));

export function startWrite() {
  $("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    writing ? writing.abort() : begin();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("prompt-form").requestSubmit();
  });
  const control = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
  $("keys").textContent = `${control} + Enter writes, Enter begins a new line, Escape stops.`;
  addEventListener("keydown", (event) => event.key === "Escape" && writing?.abort());
  for (const field of ["prompt", "genre", "emotion"]) $(field).addEventListener("input", later(typed, 200));
  $("more").addEventListener("click", () => {
    remember();
    continueText();
  });
  startShare(tell);
  on("settings", redraw);
  on("halt", () => {
    if (!writing) return;
    writing.abort();
    tell("");
  });
  on("reopened linked", ({ prompt, settings }) => {
    type(prompt);
    setSettings(settings);
  });
  on("linked", ({ remark }) => {
    if (state.tree.about) state.tree = new Tree(); // the other one is kept
    emit("text");
    typed();
    tell(remark);
  });
  on("model", (same) => {
    writing?.abort();
    pickers();
    showExamples();
    if (!same && state.tree.about) emit("reopened", state.tree.about);
  });
  on("text", () => {
    sheet.show(state.tree.path(), state.vocabulary);
    for (const id of ["more", "copy", "save"]) $(id).disabled = !sheet.nodes.length;
    $("examples").hidden = sheet.nodes.length > 0 || !model().examples.length;
    drafted(null);
    foresee();
  });
}

function showExamples() {
  const all = model().examples.map((example) => {
    const labels = [example.genre, example.emotion].filter(Boolean).join(", ");
    const press = { type: "button", class: "quiet", onclick: () => (type(example), begin()) };
    return h("li", {}, h("button", press, example.text, labels ? h("small", {}, labels) : null));
  });
  $("examples").querySelector("ul").replaceChildren(...all);
}

function type({ text, genre, emotion }) {
  $("prompt").value = text;
  $("genre").value = genre ?? "";
  $("emotion").value = emotion ?? "";
}

// The bars are those of a prompt that is typed, and the text below it is that of another one.
function drafted(ids) {
  draft = ids;
  $("write-sheet").classList.toggle("stale", ids !== null && sheet.nodes.length > 0);
  bars.of = ids === null ? "" : "After the prompt as it is typed. ";
}

function pickers() {
  for (const [id, labels] of [
    ["genre", model().genres],
    ["emotion", model().emotions],
  ]) {
    $(id).parentElement.hidden = !labels.length;
    $(id).replaceChildren(
      h("option", { value: "" }, "any"),
      ...labels.map((label) => h("option", { value: label }, label)),
    );
  }
}

const prompt = () => ({
  text: $("prompt").value,
  genre: $("genre").value || null,
  emotion: $("emotion").value || null,
});

// Whether the text is one of the prompt as it stands.
function isWritten() {
  const { about } = state.tree;
  return about !== null && JSON.stringify([about.run, about.prompt]) === JSON.stringify([model().name, prompt()]);
}

const typed = latest(async (current) => {
  const { ids } = await ask("encode", asked(prompt()));
  if (!current() || writing) return;
  if ($("status").classList.contains("bad")) tell(""); // it was of what was typed before
  drafted(isWritten() ? null : ids);
  foresee();
}, failed);

// A new text, in a tree of its own when the prompt is another.
async function begin() {
  const { fingerprint } = model();
  const { ids, remarks } = (await ask("encode", asked(prompt())).catch(failed)) ?? {};
  if (!ids) return;
  if (fingerprint !== model().fingerprint) return begin(); // another run was chosen meanwhile: these are not its ids
  remember();
  if (!isWritten()) startTree();
  let node = state.tree.root;
  for (const id of ids) node = state.tree.add(node, id, "prompt");
  state.tree.leaf = node;
  await continueText(remarks.join(" "), true);
}

// A text of its own; the one before it is kept.
function startTree() {
  keep();
  state.tree = new Tree();
  const { name, fingerprint } = model();
  const own = { id: crypto.randomUUID?.() ?? `${Date.now()}`, run: name, fingerprint, when: Date.now() };
  state.tree.about = { ...own, prompt: prompt(), settings: { ...state.settings } };
}

export async function continueText(remark = "", anew = false) {
  writing?.abort();
  drafted(null);
  const mine = (writing = new AbortController());
  const from = state.tree.leaf;
  const tree = state.tree;
  const settings = { ...state.settings };
  const draw = { run: model().name, step: state.step, settings, depth: from.depth };
  if (tree.about) tree.about.settings = settings;
  sheet.show(tree.path(), state.vocabulary);
  button(true);
  tell(remark || "Writing …");
  if (anew) emit("drawn", { prompt: tree.about.prompt, settings, signal: mine.signal });
  const started = performance.now();
  let written = 0;
  let reason = "stopped";
  try {
    for await (const token of stream("write", asked({ ids: tree.ids(), ...settings }), mine.signal)) {
      if (token.finish_reason) reason = { stop: "ended by itself", length: "as long as allowed" }[token.finish_reason];
      if (token.id == null) continue;
      if (mine.signal.aborted) break;
      written++;
      tree.leaf = tree.add(tree.leaf, token.id, "model", token.logprob);
      tree.leaf.draw = draw;
      sheet.append(tree.leaf);
      emit("token", tree.leaf);
      lookAhead();
    }
  } catch (error) {
    if (error.name !== "AbortError") reason = failed(error) ?? "it failed";
  }
  if (writing !== mine) return; // another has begun
  writing = null;
  clearTimeout(ahead);
  ahead = null;
  button(false);
  if (state.tree !== tree) return; // it was halted, and another text with its own settings is shown by now
  moveSeed();
  const speed = written / ((performance.now() - started) / 1000);
  tell(`${count(written)} tokens, ${speed.toFixed(0)} a second, ${reason}.${remark ? ` ${remark}` : ""}`);
  emit("text", from);
  sheet.begin(anew ? null : from); // where the new part begins
}

// The bars follow a text that comes; they take no more than a fifth of the time.
function lookAhead() {
  ahead ??= setTimeout(async () => {
    const started = performance.now();
    await foresee();
    lasted = performance.now() - started;
    ahead = null;
  }, Math.max(LOOK_AHEAD, 4 * lasted));
}

// A token chosen by hand at the end of the text, or of the prompt that is being typed.
function pick(id) {
  if (writing || next.vocabulary !== state.vocabulary) return; // the bars are of a place that is gone already
  remember();
  if (draft || !state.tree.about) {
    const ids = draft ?? [];
    startTree();
    for (const own of ids) state.tree.leaf = state.tree.add(state.tree.leaf, own, "prompt");
  }
  state.tree.leaf = state.tree.add(state.tree.leaf, id, "hand");
  emit("text");
}

const foresee = latest(async (current) => {
  const ids = draft ?? state.tree.ids();
  try {
    const known = ids.length ? ids : (await ask("encode", asked({ text: "" }))).ids;
    const answer = await askOnce("next", asked({ ids: known }));
    if (!current()) return;
    next = { logits: floats(answer.logits), ids: known, vocabulary: state.vocabulary };
    redraw();
  } catch (error) {
    failed(error);
  }
});

// No question to the server: the rules are applied here.
function redraw() {
  if (next?.vocabulary === state.vocabulary)
    bars.show(distribution(next.logits, state.settings, model().banned, next.ids), next.logits, state.vocabulary);
}

function button(busy) {
  $("write").classList.toggle("stop", busy);
  $("write").firstElementChild.textContent = busy ? "Stop" : "Write";
  $("write-sheet").classList.toggle("writing", busy);
  $("more").disabled = busy;
}

function tell(text) {
  $("status").classList.remove("bad");
  $("status").textContent = text;
}

function failed(error) {
  tell(error.message);
  $("status").classList.add("bad");
}
