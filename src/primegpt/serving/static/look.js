// Look: how likely each token was, what else could have stood there, and the branches that choosing otherwise makes.

import { askOnce, floats } from "./api.js";
import { drawBranches } from "./branches.js";
import { $, among, count, h, ordinal, percent } from "./dom.js";
import { remember } from "./kept.js";
import { distribution } from "./rules.js";
import { Sheet } from "./sheet.js";
import { asked, emit, latest, model, on, state } from "./state.js";
import { continueText } from "./write.js";

const ROWS = 16;
const SURPRISES = 6;
const sheet = new Sheet($("look-sheet"), choose);
let place = null; // the logits before the chosen token, and the vocabulary they are over

export function startLook() {
  on("text view", () => state.view === "look" && show());
  on("token", (node) => state.view === "look" && sheet.append(node));
  on("settings", table);
}

function show() {
  const path = state.tree.path();
  sheet.show(path, state.vocabulary);
  drawBranches($("branches"), go);
  $("surprises").replaceChildren();
  if (!path.includes(state.tree.chosen)) state.tree.chosen = null;
  choose(state.tree.chosen);
  tint();
}

const tint = latest(async (current) => {
  const path = state.tree.path();
  if (path.length < 2) return ($("look-status").textContent = "");
  const { logprobs, ranks } = await askOnce("look", asked({ ids: path.map((node) => node.id) }));
  if (!current()) return;
  path.forEach((node, at) => Object.assign(node, { logprob: logprobs[at], rank: ranks[at] }));
  sheet.retint();
  const known = logprobs.filter((value) => value != null);
  const mean = -known.reduce((a, b) => a + b, 0) / known.length;
  const first = ranks.filter((rank) => rank === 0).length;
  $("look-status").textContent =
    `On average ${mean.toFixed(2)} nats of surprise a token, as if choosing among ${among(Math.exp(mean))}; ` +
    `${first} of ${known.length} were the likeliest.`;
  const surprising = mostSurprising(path);
  $("surprises").replaceChildren(...surprising.map(surprise));
  if (!state.tree.chosen) choose(surprising[0]);
}, (error) => ($("look-status").textContent = error.message));

// The least likely first: of what was written, or of a prompt that stands alone.
function mostSurprising(path) {
  const known = path.filter((node) => node.logprob != null);
  const written = known.filter((node) => node.by !== "prompt");
  const found = written.length ? written : known;
  return found.sort((a, b) => a.logprob - b.logprob).slice(0, SURPRISES);
}

function surprise(node) {
  const chance = percent(Math.exp(node.logprob));
  const label = `${state.vocabulary.said(node.id)}, ${chance}`;
  const show = h("button", { type: "button", "aria-label": label, onclick: () => choose(node) });
  show.append(state.vocabulary.label(node.id), h("small", {}, chance));
  return h("li", {}, show);
}

function choose(node) {
  state.tree.chosen = node;
  sheet.mark(node);
  look(node);
}

const look = latest(async (current, node) => {
  place = null;
  $("alternatives").inert = true; // they are those of the token that was chosen before
  if (!node || node.parent === state.tree.root) {
    $("place-title").textContent = "A token’s place";
    $("place-note").textContent = node
      ? "The first token follows nothing."
      : "Write a text, then choose a token of it.";
    return $("alternatives").replaceChildren();
  }
  const ids = state.tree.ids(node.parent);
  const { logits } = await askOnce("next", asked({ ids }));
  if (!current()) return;
  place = { node, ids, logits: floats(logits), vocabulary: state.vocabulary };
  table();
}, (error) => ($("place-note").textContent = error.message));

// logit → ÷ T → softmax → kept, for the likeliest and for the token that came.
function table() {
  if (place?.vocabulary !== state.vocabulary || state.view !== "look") return;
  const { node, ids, logits } = place;
  const found = distribution(logits, state.settings, model().banned, ids);
  const top = found.order.slice(0, ROWS);
  const rank = found.order.indexOf(node.id) + 1;
  if (rank > ROWS) top.splice(-2, 2, null, node.id); // with a gap before it
  $("place-title").textContent = `In the place of “${state.vocabulary.label(node.id)}”`;
  $("place-note").textContent =
    `It was the ${ordinal(rank)} likeliest of ${count(found.order.length)}. Choose another to branch from here.`;
  const head = ["rank", "token", "logit", "÷ T", "softmax", "drawn"].map((name) => h("th", { scope: "col" }, name));
  const gap = () => h("tr", { class: "gap" }, h("td", { colspan: head.length }, `… ${count(rank - ROWS + 1)} more`));
  const rows = top.map((id, at) => (id === null ? gap() : row(id, id === node.id ? rank : at + 1, found, node)));
  $("alternatives").replaceChildren(h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
  $("alternatives").inert = false;
}

function row(id, rank, found, node) {
  const kept = found.kept[id] === 1;
  const label = state.vocabulary.label(id);
  const came = id === node.id;
  const button = h(
    "button",
    {
      type: "button",
      "aria-label": `${state.vocabulary.said(id)}${came ? ", the token that came" : ", branch with it"}`,
      onclick: () => branch(node, id),
    },
    label,
  );
  const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  return h(
    "tr",
    { class: `${kept ? "" : "gone"} ${came ? "came" : ""}` },
    h("td", {}, count(rank)),
    h("td", {}, button),
    h("td", {}, number(found.logits[id], 2)),
    h("td", {}, state.settings.temperature === 0 ? "–" : number(found.scaled[id], 2)),
    h("td", { class: "meter", "--share": found.soft[id].toFixed(4) }, percent(found.soft[id])),
    h("td", {}, kept ? percent(found.probabilities[id]) : "cut"),
  );
}

function branch(node, id) {
  if (id === node.id) return;
  remember();
  const chosen = state.tree.add(node.parent, id, "hand");
  const known = chosen.children.length > 0;
  state.tree.go(chosen);
  state.tree.chosen = chosen;
  emit("text");
  if (!known) continueText();
}

function go(node) {
  remember();
  state.tree.go(node);
  state.tree.chosen = node;
  emit("text");
}
