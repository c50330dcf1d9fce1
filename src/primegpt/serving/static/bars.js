// The likeliest next tokens as bars: wide and pale what the model says, narrow and dark what is drawn from.

import { among, count, h, percent } from "./dom.js";
import { entropy, softmax } from "./rules.js";

const ROWS = 14;

export class Bars {
  constructor(list, note, pick) {
    Object.assign(this, { list, note, pick, key: "", of: "" });
  }

  show(found, raw, vocabulary) {
    const own = softmax(Float64Array.from(raw));
    const top = found.order.slice(0, ROWS).filter((id) => found.logits[id] > -Infinity);
    if (this.key !== top.join()) this.build(top, vocabulary);
    top.forEach((id, at) => {
      const { row, drawn, pale, number } = this.rows[at];
      const kept = found.kept[id] === 1;
      row.classList.toggle("cut", !kept);
      drawn.style.width = `${100 * found.probabilities[id]}%`; // of the whole track, so that bars can be compared
      pale.style.width = `${100 * own[id]}%`;
      number.textContent = kept ? percent(found.probabilities[id]) : "";
      const chance = kept ? percent(found.probabilities[id]) : "cut";
      row.setAttribute("aria-label", `${vocabulary.said(id)}: ${chance}, the model’s own ${percent(own[id])}. Add it.`);
    });
    const left = found.kept.reduce((sum, one) => sum + one, 0);
    const nats = Math.max(0, entropy(found.probabilities));
    this.note.textContent =
      `${this.of}Drawn from ${count(left)} of ${count(found.order.length)} tokens: ${nats.toFixed(2)} nats of choice, ` +
      `as if among ${among(Math.exp(nats))}.`;
  }

  build(top, vocabulary) {
    this.key = top.join();
    this.rows = top.map((id) => {
      const pale = h("span", { class: "own" });
      const drawn = h("span", { class: "drawn" });
      const number = h("span", { class: "number" });
      const word = h("span", { class: "word" }, vocabulary.label(id));
      const track = h("span", { class: "track" }, pale, drawn);
      const row = h("button", { class: "bar", type: "button", onclick: () => this.pick(id) }, word, track, number);
      return { row, drawn, pale, number };
    });
    this.list.replaceChildren(...this.rows.map(({ row }) => h("li", {}, row)));
  }
}
