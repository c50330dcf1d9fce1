// Write: a prompt, the text that the model makes of it as it comes, and the token that would come next.

import { ask, askOnce, floats, stream } from "./api.js";
import { Bars } from "./bars.js";
import { $, count, h, later } from "./dom.js";
import { distribution } from "./rules.js";
import { moveSeed } from "./settings.js";
import { Sheet } from "./sheet.js";
import { asked, emit, latest, model, on, state } from "./state.js";
import { Tree } from "./tree.js";

let next = null; // the logits behind the text, from which the bars are redrawn
let draft = null; // the ids of a prompt that was typed and not yet written on from
let writing = null; // ends the writing
let spelt = null; // what the tree's prompt was made of

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
  addEventListener("keydown", (event) => event.key === "Escape" && writing?.abort());
  for (const field of ["prompt", "genre", "emotion"]) $(field).addEventListener("input", later(typed, 200));
  $("more").addEventListener("click", () => continueText());
  on("settings", redraw);
  on("model", (same) => {
    writing?.abort();
    spelt = same ? spelt : null;
    pickers();
  });
  on("text", () => {
    sheet.show(state.tree.path(), state.vocabulary);
    $("more").disabled = !sheet.nodes.length;
    draft = null;
    foresee();
  });
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

const typed = latest(async (current) => {
  const { ids } = await ask("encode", asked(prompt()));
  if (!current() || writing) return;
  draft = ids;
  foresee();
});

// A new text, in a tree of its own when the prompt is another.
async function begin() {
  const wanted = JSON.stringify([state.run, prompt()]);
  const { ids, remarks } = (await ask("encode", asked(prompt())).catch(failed)) ?? {};
  if (!ids) return;
  if (wanted !== spelt) state.tree = new Tree();
  spelt = wanted;
  let node = state.tree.root;
  for (const id of ids) node = state.tree.add(node, id, "prompt");
  state.tree.leaf = node;
  await continueText(remarks.join(" "));
}

export async function continueText(remark = "") {
  writing?.abort();
  const mine = (writing = new AbortController());
  const from = state.tree.leaf;
  const tree = state.tree;
  sheet.show(tree.path(), state.vocabulary);
  button(true);
  tell(remark || "Writing …");
  const started = performance.now();
  let written = 0;
  let reason = "stopped";
  try {
    for await (const token of stream("write", asked({ ids: tree.ids(), ...state.settings }), mine.signal)) {
      if (token.finish_reason) reason = { stop: "ended by itself", length: "as long as allowed" }[token.finish_reason];
      if (token.id == null) continue;
      written++;
      tree.leaf = tree.add(tree.leaf, token.id, "model", token.logprob);
      sheet.append(tree.leaf);
      emit("token", tree.leaf);
    }
  } catch (error) {
    if (error.name !== "AbortError") reason = failed(error) ?? "it failed";
  }
  if (writing !== mine) return; // another has begun
  writing = null;
  moveSeed();
  button(false);
  const speed = written / ((performance.now() - started) / 1000);
  tell(`${count(written)} tokens, ${speed.toFixed(0)} a second, ${reason}.${remark ? ` ${remark}` : ""}`);
  emit("text", from);
}

// A token chosen by hand at the end of the text, or of the prompt that is being typed.
function pick(id) {
  if (draft) {
    state.tree = new Tree();
    spelt = JSON.stringify([state.run, prompt()]);
    for (const own of draft) state.tree.leaf = state.tree.add(state.tree.leaf, own, "prompt");
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
    next = { logits: floats(answer.logits), ids: known };
    redraw();
  } catch (error) {
    failed(error);
  }
});

// No question to the server: the rules are applied here.
function redraw() {
  if (next)
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
