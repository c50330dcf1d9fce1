// The controls of sampling. Moving one changes what is drawn from, at once.

import { $, h } from "./dom.js";
import { emit, state } from "./state.js";

const TOP_K = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 1000, 0];
const ranges = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    say: (v) => (v === 0 ? "0, the likeliest" : v.toFixed(2)),
  },
  { name: "top_k", label: "Top-k", values: TOP_K, say: (v) => (v === 0 ? "all" : `${v}`) },
  { name: "top_p", label: "Top-p", min: 0.05, max: 1, step: 0.01, say: (v) => (v === 1 ? "all" : v.toFixed(2)) },
];
const further = [
  { name: "min_p", label: "Min-p", min: 0, max: 0.5, step: 0.01, say: (v) => (v === 0 ? "off" : v.toFixed(2)) },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 1,
    max: 2,
    step: 0.05,
    say: (v) => (v === 1 ? "off" : v.toFixed(2)),
  },
];

export function buildSettings(container, defaults) {
  state.settings = { ...defaults };
  const more = h(
    "details",
    {},
    h("summary", {}, "More"),
    h(
      "div",
      {},
      ...further.map(range),
      number("max_new_tokens", "Tokens at most", 1, 8192),
      number("seed", "Seed", 0, 2 ** 31),
      stops(),
    ),
  );
  container.replaceChildren(...ranges.map(range), more);
}

function range({ name, label, values, say, ...bounds }) {
  const now = state.settings[name];
  if (values && !values.includes(now)) values = [...values, now].sort((a, b) => (a || Infinity) - (b || Infinity));
  const output = h("output", { for: `set-${name}` }, say(now));
  const limits = values ? { min: 0, max: values.length - 1, step: 1 } : bounds;
  const slider = h("input", {
    type: "range",
    id: `set-${name}`,
    ...limits,
    oninput: () => {
      const value = values ? values[slider.value] : Number(slider.value);
      output.textContent = say(value);
      slider.setAttribute("aria-valuetext", say(value));
      change(name, value);
    },
  });
  slider.value = values ? values.indexOf(now) : now;
  slider.setAttribute("aria-valuetext", say(now));
  return h("div", { class: "setting" }, h("label", { for: `set-${name}` }, label), output, slider);
}

function number(name, label, min, max) {
  const field = h("input", {
    type: "number",
    id: `set-${name}`,
    min,
    max,
    value: state.settings[name],
    onchange: () => {
      const value = Math.min(max, Math.max(min, Math.round(Number(field.value)) || min));
      field.value = value;
      change(name, value);
    },
  });
  return h("div", { class: "setting" }, h("label", { for: `set-${name}` }, label), field);
}

function stops() {
  const field = h("input", {
    type: "text",
    id: "set-stops",
    placeholder: "a text that ends it",
    onchange: () => change("stop_strings", field.value ? [field.value] : []),
  });
  field.value = state.settings.stop_strings[0] ?? "";
  return h("div", { class: "setting" }, h("label", { for: "set-stops" }, "Stop at"), field);
}

// Those of another text: within what the controls can say, the rest stays as it is.
export function setSettings(values) {
  const bounds = [...ranges, ...further, { name: "max_new_tokens", min: 1, max: 8192 }, { name: "seed", min: 0, max: 2 ** 31 }];
  const settings = { ...state.settings, stop_strings: values.stop_strings ?? [] };
  for (const { name, min = 0, max = 1e6 } of bounds) {
    if (values[name] >= min && values[name] <= max) settings[name] = values[name];
  }
  buildSettings($("settings"), settings);
  emit("settings");
}

// The next text is another one; each seed gives its own again.
export function moveSeed() {
  state.settings.seed++;
  $("set-seed").value = state.settings.seed;
}

function change(name, value) {
  state.settings[name] = value;
  emit("settings");
}
