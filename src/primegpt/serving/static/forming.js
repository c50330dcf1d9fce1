// How a guess forms: what each block adds to its logit, and what all logits are in the end.

import { floats } from "./api.js";
import { $, arrows, count, h, percent, signed } from "./dom.js";
import { strip } from "./strip.js";

let found = null;
let followed = 0; // which of the candidates

export function startForming() {
  arrows($("followed"), () => [...$("followed").children], pick);
}

export function showForming(what) {
  const before = found?.flow.candidates[followed];
  found = what;
  const known = followed > 0 ? found.flow.candidates.indexOf(before) : 0;
  followed = Math.max(0, known);
  const { candidates, probabilities } = found.flow;
  $("followed").replaceChildren(
    ...candidates.map((id, at) => {
      const press = { type: "button", role: "radio", onclick: () => pick(at) };
      const came = found.next?.id === id ? ", came" : "";
      return h("button", press, label(id), h("small", {}, `${percent(probabilities[at])}${came}`));
    }),
  );
  pick(followed);
}

function pick(at) {
  followed = at;
  [...$("followed").children].forEach((button, other) => {
    button.setAttribute("aria-checked", other === at);
    button.tabIndex = other === at ? 0 : -1;
  });
  table();
  showLogits(found);
}

const label = (id) => found.vocabulary.label(id);

// One row a block, from the embedding on: its guess, the followed one there, and what was added to its logit.
function table() {
  const { guesses, shares, candidates, logits, constant, softcap } = found.flow;
  const layers = guesses.ids.length - 1;
  const share = (part) => shares?.[part][followed];
  const largest = Math.max(1e-9, ...(shares ?? []).map((row) => Math.abs(row[followed])));
  const name = `“${label(candidates[followed])}”`;
  const head = ["", "would say", "", name, "attention adds", "MLP adds"];
  const rows = guesses.ids.map((id, depth) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, depth === 0 ? "embedding" : `block ${depth}`),
      h("td", { class: "word" }, label(id)),
      h("td", {}, percent(guesses.probabilities[depth])),
      h(
        "td",
        { class: "meter", "--share": guesses.candidates[depth][followed].toFixed(4) },
        h("span", {}, `${percent(guesses.candidates[depth][followed])}, `), // neither breaks where a screen is narrow
        h("span", {}, `rank ${count(guesses.ranks[depth][followed] + 1)}`),
      ),
      ...(depth === 0
        ? [h("td", { colspan: 2 }, shares ? `${signed(share(0))} to begin with` : "–")]
        : [pushed(share(2 * depth - 1), largest), pushed(share(2 * depth), largest)]),
    ),
  );
  const sum = (parts) => parts.reduce((total, part) => total + share(part), 0);
  const parts = (first) => Array.from({ length: layers }, (_, at) => 2 * at + first);
  const sums = shares ? [signed(sum(parts(1))), signed(sum(parts(2)))] : ["–", "–"];
  const foot = h(
    "tr",
    {},
    h("th", { scope: "row" }, "all blocks"),
    h("td", {}),
    h("td", {}), // a narrow screen leaves this column out
    h("td", {}),
    h("td", {}, sums[0]),
    h("td", {}, sums[1]),
  );
  $("forming").replaceChildren(
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows),
    h("tfoot", {}, foot),
  );
  $("forming-note").textContent = shares
    ? sentence(name, { start: share(0), attention: sum(parts(1)), mlp: sum(parts(2)), constant: constant[followed], logit: logits[followed], softcap })
    : "The final norm is of an extension: what each part adds to a logit is not known.";
}

function sentence(name, { start, attention, mlp, constant, logit, softcap }) {
  const parts = [`embedding ${signed(start)}`, `attention ${signed(attention)}`, `MLPs ${signed(mlp)}`];
  if (constant) parts.push(`bias of the final norm ${signed(constant)}`);
  const raw = start + attention + mlp + constant;
  const capped = softcap ? `, which the softcap of ${softcap} bends to ${logit.toFixed(2)}` : "";
  return `The logit of ${name} as a sum: ${parts.join(", ")}, together ${raw.toFixed(2)}${capped}. Teal raises it, grey lowers it; the widest bar is the largest share. The length by which the final norm divides is held as it came out.`;
}

// A bar from the middle of the cell: to the right what raises, to the left what lowers.
function pushed(value, largest) {
  if (value == null) return h("td", {}, "–");
  const reach = (50 * Math.abs(value)) / largest;
  const [from, to] = value < 0 ? [50 - reach, 50] : [50, 50 + reach];
  const tone = value < 0 ? "var(--soft)" : "var(--given)";
  const bounds = { "--from": `${from}%`, "--to": `${to}%`, "--tone": tone };
  return h("td", { class: "push", ...bounds }, signed(value));
}

export function showLogits({ flow, logits }) {
  const { candidates, shares, constant, softcap, vectors } = flow;
  $("logits-note").textContent =
    "The final norm brings the stream to a common length. Then it is multiplied, number by number, with the row of each " +
    `of the ${count(logits.length)} tokens, and the sum of the products is that token’s logit.` +
    (softcap ? ` Here a softcap keeps logits between −${softcap} and ${softcap}.` : "");
  $("logits-strips").replaceChildren(strip("The stream as the head sees it", floats(vectors.normed)));
  const largest = Math.max(...flow.logits.map(Math.abs));
  const raw = (at) => shares.reduce((sum, row) => sum + row[at], constant[at]);
  const head = ["token", ...(softcap && shares ? ["sum"] : []), "logit", "probability"];
  const rows = candidates.map((id, at) =>
    h(
      "tr",
      { "aria-current": at === followed },
      h("td", { class: "word" }, label(id)),
      softcap && shares ? h("td", {}, raw(at).toFixed(2)) : null,
      pushed(flow.logits[at], largest),
      h("td", {}, percent(flow.probabilities[at])),
    ),
  );
  $("logits").replaceChildren(
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows),
  );
}
