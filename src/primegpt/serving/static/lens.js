// The logit lens: the likeliest next token after each layer, for the places up to the chosen one.

import { askOnce } from "./api.js";
import { $, h, percent } from "./dom.js";
import { asked, latest, model, state } from "./state.js";

const COLUMNS = 14;

export const showLens = latest(async (current, ids, at) => {
  const { probabilities, ids: said } = await askOnce("lens", asked({ ids: ids.slice(0, at + 1) }));
  if (!current()) return;
  const places = said[0].length;
  const first = Math.max(0, places - COLUMNS);
  const offset = at + 1 - places; // of the answer's places in the text
  const columns = Array.from({ length: places - first }, (_, i) => first + i);
  const label = (id) => state.vocabulary.label(id);
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "after reading"),
    columns.map((place) => h("th", { scope: "col" }, label(ids[offset + place]))),
  );
  const rows = said.map((layer, depth) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name(depth)),
      columns.map((place) => {
        const [id] = layer[place];
        const all = layer[place]
          .map((other, i) => `${label(other)} ${percent(probabilities[depth][place][i])}`)
          .join("\n");
        const came = ids[offset + place + 1] === id;
        return h(
          "td",
          { "--heat": probabilities[depth][place][0].toFixed(3), title: all, class: came ? "came" : null },
          label(id),
        );
      }),
    ),
  );
  $("lens").replaceChildren(h("thead", {}, head), h("tbody", {}, rows.reverse()));
});

const name = (depth) =>
  depth === 0 ? "embedding" : depth === model().n_layer ? `layer ${depth}, said` : `layer ${depth}`;
