// Embeddings by what lies near: tokens that are treated alike, and places.

import { askOnce } from "./api.js";
import { plot } from "./curves.js";
import { $, count, h } from "./dom.js";
import { asked, latest, model, state } from "./state.js";

let curve = []; // of the chosen place with every place

export function startNear() {
  $("near-place").addEventListener("input", said);
}

// Any number of the curve, by keyboard too.
function said() {
  const at = Number($("near-place").value);
  const value = curve[at - 1];
  $("near-said").textContent = value === undefined ? "" : `place ${count(at)}: ${value.toFixed(3)}`;
}

export const showNear = latest(async (current, id, position) => {
  const { tokens, positions } = await askOnce("near", asked({ id, position }));
  if (!current()) return;
  $("near-tokens").replaceChildren(...tokens.ids.map((other, at) => bar(other, tokens.cosines[at])));
  $("places-note").textContent =
    model().position === "learned"
      ? `How alike the embedding of place ${position + 1} is to that of every other place: a model that has learnt order finds near places alike.`
      : `This model turns queries and keys by their place (rotary). The curve tells how much is left, seen from place ${position + 1}, of a match that would be perfect side by side.`;
  curve = positions;
  $("near-place").max = positions.length;
  $("near-place").value = Math.max(1, position);
  said();
  plot($("near-positions"), {
    label: `Cosine similarity of place ${position + 1} with all ${positions.length} places`,
    height: 150,
    x: { min: 1, max: model().block_size, ticks: [1, Math.round(model().block_size / 2), model().block_size] },
    y: { min: Math.min(0, ...positions), max: 1, ticks: [0, 0.5, 1] },
    lines: [{ kind: "val first", points: positions.map((value, at) => [at + 1, value]) }],
    marks: [{ x: position + 1, kind: "first" }],
  });
}, failed);

function failed(error) {
  for (const id of ["near-tokens", "near-positions", "near-said"]) $(id).replaceChildren();
  curve = [];
  $("places-note").textContent = error.message;
}

function bar(id, cosine) {
  const drawn = h("span", { class: "drawn" });
  drawn.style.width = `${Math.max(0, 100 * cosine)}%`;
  return h(
    "li",
    { class: "bar" },
    h("span", { class: "word" }, state.vocabulary.label(id)),
    h("span", { class: "track" }, drawn),
    h("span", { class: "number" }, cosine.toFixed(2)),
  );
}
