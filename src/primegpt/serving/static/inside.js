// Inside: one chosen token, and what the model does at its place: attention, layer by layer, embeddings.

import { showAttention, startAttention, weightsOf } from "./attention.js";
import { $, percent } from "./dom.js";
import { showLens } from "./lens.js";
import { showNear } from "./near.js";
import { Sheet } from "./sheet.js";
import { model, on, state } from "./state.js";

const SHOWN = 256; // as many tokens as the server computes attention for
const sheet = new Sheet($("inside-sheet"), choose);
let start = 0; // of what is shown

export function startInside() {
  startAttention(tint);
  on("text view", () => state.view === "inside" && show());
}

async function show() {
  const path = state.tree.path();
  start = Math.max(0, path.length - Math.min(SHOWN, model().block_size));
  sheet.show(path.slice(start), state.vocabulary);
  if (!sheet.nodes.length) return ($("inside-status").textContent = "Write a text first.");
  choose(sheet.nodes.includes(state.tree.chosen) ? state.tree.chosen : sheet.nodes.at(-1));
}

function choose(node) {
  state.tree.chosen = node;
  const at = sheet.mark(node);
  const ids = sheet.nodes.map((other) => other.id);
  showAttention(ids, at);
  showLens(ids, at);
  showNear(node.id, at);
}

// Where the chosen token reads from, on the text itself.
function tint() {
  const at = sheet.nodes.indexOf(state.tree.chosen);
  const weights = weightsOf(at);
  if (!weights) return;
  const top = Math.max(...weights);
  sheet.heat(weights.map((weight) => weight / top));
  const most = weights.indexOf(top);
  const name = (index) => `“${state.vocabulary.label(sheet.nodes[index].id)}”`;
  const self = most === at ? "itself" : name(most);
  $("inside-status").textContent = `${name(at)} takes most from ${self}: ${percent(top)} of this head’s attention.`;
}
