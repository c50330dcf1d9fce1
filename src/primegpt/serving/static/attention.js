// The attention of one layer: a small map of every head, a large one of the chosen head.

import { askOnce, unpack } from "./api.js";
import { $, arrows, h, s } from "./dom.js";
import { asked, latest, model, on, state } from "./state.js";

const LARGE = 36; // tokens on the large map, fewer where it is narrow
let maps = null; // { bytes, heads, tokens } of the layer; a byte is the root of a weight, so that small ones show
let head = 0;
let at = 0;
let ids = [];
let changed = () => {};

export function startAttention(whenChanged) {
  changed = whenChanged;
  $("layer").addEventListener("change", load);
  on("model", () => {
    $("layer").replaceChildren(
      ...Array.from({ length: model().n_layer }, (_, layer) => h("option", { value: layer }, layer + 1)),
    );
    head = 0;
  });
  arrows($("heads"), () => [...$("heads").children], pick);
}

export function showAttention(tokens, chosen) {
  [ids, at] = [tokens, chosen];
  load();
}

// The weights with which the token at `place` reads from all up to it.
export function weightsOf(place) {
  if (!maps || place < 0 || place >= maps.tokens) return null;
  const from = (head * maps.tokens + place) * maps.tokens;
  return Array.from(maps.bytes.subarray(from, from + maps.tokens), (byte) => (byte / 255) ** 2);
}

const load = latest(async (current) => {
  const answer = await askOnce("attention", asked({ ids, layer: Number($("layer").value) || 0 }));
  if (!current()) return;
  maps = { bytes: unpack(answer.maps), heads: answer.heads, tokens: answer.tokens };
  head = Math.min(head, maps.heads - 1);
  $("heads").replaceChildren(...Array.from({ length: maps.heads }, (_, index) => small(index)));
  large();
  changed();
});

function pick(index) {
  head = index;
  [...$("heads").children].forEach((button, other) => {
    button.setAttribute("aria-checked", other === head);
    button.tabIndex = other === head ? 0 : -1;
  });
  large();
  changed();
}

function small(index) {
  const size = maps.tokens;
  const canvas = h("canvas", { width: size, height: size, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(size, size);
  const [red, green, blue] = ink();
  for (let i = 0; i < size * size; i++) {
    image.data.set([red, green, blue, maps.bytes[index * size * size + i]], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  return h(
    "button",
    {
      type: "button",
      class: "head",
      role: "radio",
      "aria-checked": index === head,
      tabindex: index === head ? 0 : -1,
      onclick: () => pick(index),
    },
    canvas,
    `Head ${index + 1}`,
  );
}

// The teal of the style sheet, as numbers.
function ink() {
  const probe = h("canvas", { width: 1, height: 1 }).getContext("2d");
  probe.fillStyle = getComputedStyle($("write")).backgroundColor;
  probe.fillRect(0, 0, 1, 1);
  return probe.getImageData(0, 0, 1, 1).data;
}

// Rows read, columns are read from; the end of the text, or what lies around the chosen token.
function large() {
  const shown = Math.min(LARGE, maps.tokens, Math.max(12, Math.floor($("map").clientWidth / 20)));
  const first = Math.min(Math.max(0, at - shown + 6), maps.tokens - shown);
  const size = 16;
  const edge = size * shown;
  const name = (index) => state.vocabulary.label(ids[first + index]).slice(0, 12);
  const longest = Math.max(...Array.from({ length: shown }, (_, index) => name(index).length));
  const left = 12 + 6.5 * longest;
  const top = 14 + 5.5 * longest;
  const cells = [];
  for (let row = 0; row < shown; row++) {
    const weights = maps.bytes.subarray((head * maps.tokens + first + row) * maps.tokens);
    for (let column = 0; column <= row; column++) {
      const shade = weights[first + column] / 255;
      if (shade < 0.03) continue;
      const cell = s("rect", {
        class: "cell",
        x: left + column * size,
        y: top + row * size,
        width: size - 1,
        height: size - 1,
        rx: 2,
        opacity: shade.toFixed(3),
      });
      cell.append(s("title", {}, `${name(row)} reads ${(100 * shade ** 2).toFixed(0)} % from ${name(column)}`));
      cells.push(cell);
    }
  }
  const labels = Array.from({ length: shown }, (_, index) => [
    s("text", { x: left - 7, y: top + index * size + 12, "text-anchor": "end" }, name(index)),
    s("text", { transform: `translate(${left + index * size + 11} ${top - 7}) rotate(-60)` }, name(index)),
  ]);
  const chosen = at - first;
  const line =
    chosen >= 0 && chosen < shown
      ? s("rect", {
          class: "line",
          x: left - 1,
          y: top + chosen * size - 1,
          width: (chosen + 1) * size + 1,
          height: size + 1,
          rx: 3,
        })
      : null;
  const bed = s("path", { class: "bed", d: `M${left} ${top}V${top + edge}H${left + edge}Z` });
  const label = `Attention of head ${head + 1}, layer ${Number($("layer").value) + 1}: rows read from columns`;
  $("map").replaceChildren(
    s(
      "svg",
      { viewBox: `0 0 ${left + edge + 48} ${top + edge + 4}`, role: "img", "aria-label": label },
      bed,
      cells,
      line,
      ...labels.flat(),
    ),
  );
}
