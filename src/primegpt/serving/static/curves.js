// Lines on axes, as SVG, with their values under the pointer.

import { count, h, s } from "./dom.js";

const LEFT = 38;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;
const GIVEN = "var(--given)"; // the colour of what has none of its own

// `lines`: [{ kind, own, name, points, dots }], `own` being a colour; `marks`: vertical lines. `bend` of an axis gives
// some of it more room. `tell`, how values are said: { x, y, unit }.
export function plot(figure, { label, height, x, y, lines, marks = [], pick, tell }) {
  const width = Math.max(260, figure.clientWidth || 640);
  const along = ({ min, max, bend = (value) => value }) => {
    const range = bend(max) - bend(min) || 1;
    return (value) => (bend(value) - bend(min)) / range;
  };
  const [placed, raised] = [along(x), along(y)];
  const across = (value) => LEFT + placed(value) * (width - LEFT - RIGHT);
  const down = (value) => TOP + (1 - raised(value)) * (height - TOP - BOTTOM);
  const grid = y.ticks.map((tick) => [
    s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: down(tick), y2: down(tick) }),
    s("text", { x: LEFT - 8, y: down(tick) + 4, "text-anchor": "end" }, `${+tick.toFixed(2)}`),
  ]);
  const below = x.ticks.map((tick) =>
    s("text", { x: across(tick), y: height - 5, "text-anchor": "middle" }, count(tick)),
  );
  const drawn = lines.map(({ kind, own = GIVEN, points, dots }) => [
    s("path", {
      class: kind,
      "--own": own,
      d: points.map(([a, b], i) => `${i ? "L" : "M"}${across(a).toFixed(1)} ${down(b).toFixed(1)}`).join(""),
    }),
    (dots ?? []).map(([a, b, at]) =>
      s("circle", { class: `${kind} ${at ? "at" : ""}`, "--own": own, cx: across(a), cy: down(b), r: at ? 5.5 : 3.2 }),
    ),
  ]);
  const now = marks.map(({ x: value, kind = "", own = GIVEN }) =>
    s("line", { class: `now ${kind}`, "--own": own, x1: across(value), x2: across(value), y1: TOP, y2: height - BOTTOM }),
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
    svg.addEventListener("click", (event) => pick(event.clientX - svg.getBoundingClientRect().left, across));
  }
  const before = figure.querySelector("svg");
  before ? before.replaceWith(svg) : figure.prepend(svg);
  if (tell) telling(figure, svg, lines.filter(({ points }) => points.length), across, tell, width);
}

// A line and a box that follow the pointer, or the arrow keys: what each line is at its point that is nearest. Both
// stay when the lines are drawn anew, as they are again and again while a run trains.
function telling(figure, svg, lines, across, { x, y, unit }, width) {
  const told = (figure.told ??= {
    cross: h("div", { class: "cross", hidden: true }),
    box: h("div", { class: "box", role: "status", hidden: true }),
    step: null,
  });
  const { cross, box } = told;
  if (!box.isConnected) figure.append(cross, box);
  const steps = [...new Set(lines.flatMap(({ points }) => points.map(([at]) => at)))].sort((a, b) => a - b);
  const nearest = (places, at) =>
    places.reduce((best, place) => (Math.abs(across(place) - at) < Math.abs(across(best) - at) ? place : best));
  let current = -1;
  const show = (index) => {
    current = Math.min(Math.max(index, 0), steps.length - 1);
    told.step = steps[current];
    const at = across(steps[current]);
    const rows = lines.map(({ own, name, points }) => {
      const step = nearest(points.map(([a]) => a), at);
      const [, value] = points.find(([a]) => a === step);
      const where = step === steps[current] ? "" : ` at ${x(step)}`;
      return h("div", { "--own": own }, h("b", {}, y(value)), ` ${name}${where}`);
    });
    const all = h("div", {}, h("div", {}, `${x(steps[current])}, ${unit}`), rows);
    if (all.textContent !== box.textContent) box.replaceChildren(...all.children); // else it would be heard again
    cross.hidden = box.hidden = false;
    cross.style.left = `${at}px`;
    const room = width - box.offsetWidth;
    const beside = at + 12 <= room ? at + 12 : at - 12 - box.offsetWidth;
    box.style.left = `${Math.min(Math.max(beside, 0), Math.max(room, 0))}px`;
  };
  const hide = () => {
    told.step = null;
    cross.hidden = box.hidden = true;
  };
  const point = (event) => show(steps.indexOf(nearest(steps, event.clientX - svg.getBoundingClientRect().left)));
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", hide);
  figure.onblur = hide;
  figure.onkeydown = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(current + move);
  };
  if (told.step !== null) show(steps.indexOf(nearest(steps, across(told.step))));
}

export function nice(min, max) {
  const rough = (max - min) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((unit) => unit * power).find((unit) => unit >= rough);
  const ticks = [];
  for (let tick = Math.ceil(min / step) * step; tick <= max + 1e-9; tick += step) ticks.push(tick);
  return ticks;
}
