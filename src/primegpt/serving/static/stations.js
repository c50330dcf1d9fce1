// The first stations and the last: tokens and their numbers, the rows that they pick, and what is drawn from at the end.

import { floats } from "./api.js";
import { $, among, count, h, percent } from "./dom.js";
import { distribution, entropy, softmax } from "./rules.js";
import { strip } from "./strip.js";
import { model, state } from "./state.js";

const CHIPS = 9;
const ROWS = 10;

export function showTokens(nodes, at, choose) {
  const { vocab_size } = model();
  const node = nodes[at];
  $("tokens-note").textContent =
    `A model computes with numbers. Its list has ${count(vocab_size)} tokens, and each is called by its place there: ` +
    `“${state.vocabulary.label(node.id)}”, token ${count(node.depth)} of this text, is number ${count(node.id)}.`;
  const shown = nodes.slice(Math.max(0, at + 1 - CHIPS), at + 1);
  const focused = $("chips").contains(document.activeElement); // a chip was pressed by keyboard
  $("chips").replaceChildren(
    ...shown.map((other) => {
      const press = { type: "button", "aria-current": other === node, onclick: () => choose(other) };
      return h("li", {}, h("button", press, state.vocabulary.label(other.id), h("small", {}, count(other.id))));
    }),
  );
  if (focused) $("chips").querySelector('[aria-current="true"]').focus();
}

// A token's place in what the model reads to guess the next one: of a text that is longer than the context, its last half.
export const placeOf = ({ depth }, { block_size } = model()) => (depth > block_size ? block_size >> 1 : depth);

export function showEmbedding({ flow }, node) {
  const { n_embd, position, block_size } = model();
  const { token, position: row, embedding } = flow.vectors;
  const start = `The number picks a row of ${count(n_embd)} numbers from a table: all that the model has learnt of this token, whatever stands around it.`;
  const places = row
    ? "A second table has a row for each place. Their sum is where the residual stream of this place begins."
    : position === "rope"
      ? "Places are not added here: attention turns what it compares by the distance between two tokens."
      : "";
  const cut =
    node.depth > block_size
      ? `The text is longer than the context of ${count(block_size)}: the model reads its last ${count(placeOf(node))} tokens here, and this one is the last of them. The whole map, and the guesses block by block for the places before, are of all tokens that are shown above.`
      : "";
  $("embedding-note").textContent = `${start} ${places} ${cut}`.trim();
  const name = `“${state.vocabulary.label(node.id)}”`;
  const rows = [strip(`The row of ${name}`, floats(token))];
  if (row) rows.push(strip("The row of its place", floats(row)));
  rows.push(strip("The stream begins", floats(embedding)));
  $("embedding-strips").replaceChildren(...rows);
}

export function showChances({ logits, ids, next, vocabulary }) {
  if (vocabulary !== state.vocabulary) return; // another run was chosen, and its own are still to come
  const found = distribution(logits, state.settings, model().banned, ids);
  const own = softmax(Float64Array.from(logits));
  const shown = found.order.slice(0, ROWS);
  if (next && !shown.includes(next.id)) shown.push(next.id);
  const kept = found.kept.reduce((sum, one) => sum + one, 0);
  const nats = Math.max(0, entropy(found.probabilities));
  $("chances-note").textContent =
    "e to the power of each logit, divided by the sum of all, is a probability. Temperature divides the logits before, " +
    `and the rules cut: here one token is drawn from ${count(kept)} of ${count(logits.length)}, ` +
    `with ${nats.toFixed(2)} nats of choice, as if among ${among(Math.exp(nats))}.`;
  $("chances").replaceChildren(
    ...shown.map((id) => {
      const drawn = h("span", { class: "drawn" });
      const pale = h("span", { class: "own" });
      drawn.style.width = `${100 * found.probabilities[id]}%`;
      pale.style.width = `${100 * own[id]}%`;
      const chance = found.kept[id] ? percent(found.probabilities[id]) : "";
      const name = `${state.vocabulary.label(id)}${next?.id === id ? " •" : ""}`;
      return h(
        "li",
        { class: `bar ${found.kept[id] ? "" : "cut"}` },
        h("span", { class: "word" }, name),
        h("span", { class: "track" }, pale, drawn),
        h("span", { class: "number" }, chance),
      );
    }),
  );
}
