// A vector as a row of cells, one a number: teal above zero, grey below, each to be read by pointer, touch or arrow keys.

import { colour, count, h, signed } from "./dom.js";

const WIDEST = 2048; // cells; of more numbers a cell shows the largest of those that share it

export function strip(name, values, note = "") {
  const size = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const whole = `${count(values.length)} numbers, length ${size.toFixed(2)}${note}`;
  const canvas = h("canvas", { "aria-hidden": "true" });
  const mark = h("i", { hidden: true });
  const output = h("output", {}, whole);
  const said = (at) => `number ${count(at + 1)} of ${count(values.length)}: ${signed(values[at], 3)}`;
  const tell = () => {
    const at = Number(slider.value);
    output.textContent = said(at);
    slider.setAttribute("aria-valuetext", said(at));
    mark.hidden = false;
    mark.style.left = `${(100 * (at + 0.5)) / values.length}%`;
  };
  const slider = h("input", { type: "range", min: 0, max: values.length - 1, value: 0, "aria-label": name });
  slider.setAttribute("aria-valuetext", whole);
  slider.addEventListener("input", tell);
  slider.addEventListener("pointerdown", tell);
  draw(canvas, values);
  return h(
    "div",
    { class: "strip" },
    h("div", { class: "strip-head" }, h("span", {}, name), output),
    h("div", { class: "strip-cells" }, canvas, mark, slider),
  );
}

function draw(canvas, values) {
  const width = (canvas.width = Math.min(WIDEST, values.length));
  canvas.height = 1;
  const pen = canvas.getContext("2d");
  const [above, below] = [colour("given"), colour("soft")];
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
  for (let cell = 0; cell < width; cell++) {
    const from = Math.floor((cell * values.length) / width);
    const to = Math.max(from + 1, Math.floor(((cell + 1) * values.length) / width));
    let value = values[from];
    for (let at = from; at < to; at++) if (Math.abs(values[at]) > Math.abs(value)) value = values[at];
    pen.fillStyle = value < 0 ? below : above;
    pen.globalAlpha = Math.abs(value) / largest;
    pen.fillRect(cell, 0, 1, 1);
  }
}
