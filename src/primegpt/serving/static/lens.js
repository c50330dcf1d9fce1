// The logit lens: the likeliest next token after each block, for the places up to the chosen one.

import { askOnce } from "./api.js";
import { $, grid, h, percent } from "./dom.js";
import { asked, latest, model, state } from "./state.js";

const buttons = () => [...$("lens").querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("button")]);
const label = (id) => state.vocabulary.label(id);
let tell = () => {};

grid($("lens"), buttons, (depth, place) => tell(depth, place));

export const showLens = latest(async (current, ids, at) => {
  const { probabilities, ids: said } = await askOnce("lens", asked({ ids: ids.slice(0, at + 1) }));
  if (!current()) return;
  const offset = at + 1 - said[0].length; // of the answer's places in the text
  const read = ids.slice(offset, at + 1);
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "after reading"),
    read.map((id) => h("th", { scope: "col" }, label(id))),
  );
  const cell = (layer, depth, place) => {
    const [id] = layer[place];
    const chance = probabilities[depth][place][0];
    const press = {
      type: "button",
      tabindex: -1,
      "--heat": chance.toFixed(3),
      class: ids[offset + place + 1] === id ? "came" : null,
      "aria-label": `${state.vocabulary.said(id)}, ${percent(chance)}`,
      onclick: () => tell(depth, place),
    };
    return h("td", {}, h("button", press, label(id)));
  };
  const rows = said.map((layer, depth) =>
    h("tr", {}, h("th", { scope: "row" }, name(depth)), layer.map((_, place) => cell(layer, depth, place))),
  );
  $("lens").replaceChildren(h("thead", {}, head), h("tbody", {}, rows));
  tell = (depth, place) => {
    for (const [row, cells] of buttons().entries()) {
      for (const [column, button] of cells.entries()) {
        const chosen = row === depth && column === place;
        button.setAttribute("aria-pressed", chosen);
        button.tabIndex = chosen ? 0 : -1;
      }
    }
    const five = said[depth][place].map((id, i) => `${label(id)} ${percent(probabilities[depth][place][i])}`);
    $("lens-said").textContent = `After “${label(read[place])}”, ${name(depth)}: ${five.join(",  ")}`;
  };
  tell(said.length - 1, read.length - 1);
}, failed);

function failed(error) {
  $("lens").replaceChildren();
  $("lens-said").textContent = error.message;
}

const name = (depth) =>
  depth === 0 ? "embedding" : depth === model().n_layer ? `block ${depth}, said` : `block ${depth}`;
