// Lines on axes, as SVG.

import { count, s } from "./dom.js";

const LEFT = 38;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;

// `lines`: [{ kind, points, dots }], `marks`: vertical lines; `x.bend` gives the first steps room.
export function plot(figure, { label, height, x, y, lines, marks = [], pick }) {
  const width = Math.max(260, figure.clientWidth || 640);
  const bend = x.bend ?? ((value) => value);
  const place = (value) => (bend(value) - bend(x.min)) / (bend(x.max) - bend(x.min) || 1);
  const across = (value) => LEFT + place(value) * (width - LEFT - RIGHT);
  const down = (value) => TOP + (1 - (value - y.min) / (y.max - y.min || 1)) * (height - TOP - BOTTOM);
  const grid = y.ticks.map((tick) => [
    s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: down(tick), y2: down(tick) }),
    s("text", { x: LEFT - 8, y: down(tick) + 4, "text-anchor": "end" }, `${+tick.toFixed(2)}`),
  ]);
  const below = x.ticks.map((tick) =>
    s("text", { x: across(tick), y: height - 5, "text-anchor": "middle" }, count(tick)),
  );
  const drawn = lines.map(({ kind, points, dots }) => [
    s("path", {
      class: kind,
      d: points.map(([a, b], i) => `${i ? "L" : "M"}${across(a).toFixed(1)} ${down(b).toFixed(1)}`).join(""),
    }),
    (dots ?? []).map(([a, b, at]) =>
      s("circle", { class: `${kind} ${at ? "at" : ""}`, cx: across(a), cy: down(b), r: at ? 5.5 : 3.2 }),
    ),
  ]);
  const now = marks.map(({ x: value, kind }) =>
    s("line", { class: `now ${kind}`, x1: across(value), x2: across(value), y1: TOP, y2: height - BOTTOM }),
  );
  const svg = s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label },
    grid.flat(),
    now,
    drawn.flat(2),
    below,
  );
  if (pick) {
    svg.style.cursor = "pointer";
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      pick(((event.clientX - box.left) / box.width) * width, across);
    });
  }
  figure.replaceChildren(svg);
}

export function nice(min, max) {
  const rough = (max - min) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((unit) => unit * power).find((unit) => unit >= rough);
  const ticks = [];
  for (let tick = Math.ceil(min / step) * step; tick <= max + 1e-9; tick += step) ticks.push(tick);
  return ticks;
}
