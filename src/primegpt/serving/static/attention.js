// One block at the chosen place: where each head reads and what it adds, the MLP, and the whole map of a head.

import { askOnce, floats, unpack } from "./api.js";
import { $, arrows, colour, count, h, percent, resized } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { strip } from "./strip.js";
import { asked, latest, model, on, state } from "./state.js";

const READ = 6; // tokens that are named under the heads
let chosen = null; // { ids, at, path }: the tokens shown, the chosen one among them, all ids up to it
let place = null; // the same of what is drawn, which follows, with its { layer, vocabulary }
let block = null; // what the server said of the block at that place
let weights = null; // (H, seen)
let maps = null; // { bytes, heads, tokens } of the block; a byte is the root of a weight, so that small ones show
let head = 0;
let picked = false; // by hand; else it is the head that adds most
let changed = () => {};
const map = new Heatmap($("map"), $("cell"));

export function startAttention(whenChanged) {
  changed = whenChanged;
  $("layer").addEventListener("change", load);
  $("whole").addEventListener("toggle", large);
  resized(large);
  on("model", () => {
    const { n_layer } = model();
    $("layer").replaceChildren(...Array.from({ length: n_layer }, (_, at) => h("option", { value: at }, at + 1)));
    $("layer-note").textContent = `of ${n_layer}; each has attention, then an MLP`;
    picked = false;
  });
  arrows($("heads"), () => [...$("heads").children], pick);
}

export function showBlock(where) {
  chosen = where;
  return load();
}

// With what weight the chosen head reads the token at a depth, counted from 1; undefined for one that it does not see.
export function weightsAt(depth) {
  const back = weights && depth - place.path.length; // 0, −1, …
  if (!weights || back > 0) return undefined;
  const seen = weights.length / block.heads.length;
  return seen - 1 + back < 0 ? undefined : weights[head * seen + seen - 1 + back];
}

const label = (id) => place.vocabulary.label(id);

const load = latest(async (current) => {
  const layer = Number($("layer").value) || 0;
  const next = { ...chosen, layer, vocabulary: state.vocabulary };
  const answer = await askOnce("block", asked({ ids: next.path, layer }));
  const map = answer.weights && (await askOnce("attention", asked({ ids: next.ids, layer })));
  if (!current()) return;
  place = next;
  block = answer;
  weights = block.weights && floats(block.weights);
  maps = map && { bytes: unpack(map.maps), heads: map.heads, tokens: map.tokens };
  if (!picked) head = loudest();
  $("attention-note").textContent = block.weights
    ? "What matters at this place may stand before it. Each head compares it with every token up to here, and takes from them in shares that add up to 100 %."
    : "This attention is of an extension: what it adds is known, and not where it reads.";
  $("heads").replaceChildren(...block.heads.map((_, index) => card(index)));
  heads();
  mlp();
}, failed);

// An error in place of what was drawn of another block.
function failed(error) {
  block = weights = maps = null;
  const drawn = ["heads", "reads", "read-from", "attention-strips", "attention-pushes", "cell"];
  for (const id of [...drawn, "mlp-note", "mlp-strips", "mlp-pushes"]) $(id).replaceChildren();
  map.clear();
  changed();
  $("attention-note").textContent = error.message;
}

const loudest = () => block.heads.reduce((best, { length }, at, all) => (length > all[best].length ? at : best), 0);

function pick(index) {
  [head, picked] = [index, true];
  [...$("heads").children].forEach((button, other) => {
    button.setAttribute("aria-checked", other === head);
    button.tabIndex = other === head ? 0 : -1;
  });
  heads();
}

// The tokens that a head reads most, [back, weight] each.
function most(index) {
  const seen = weights.length / block.heads.length;
  const own = Array.from(weights.subarray(index * seen, (index + 1) * seen));
  return own.map((weight, at) => [at + 1 - seen, weight]).sort(([, one], [, other]) => other - one);
}

const tokenAt = (back) => label(place.path[place.path.length - 1 + back]);

function card(index) {
  const [first, second] = most(index);
  const { length, pushes } = block.heads[index];
  const attributes = {
    type: "button",
    class: "head",
    role: "radio",
    "aria-checked": index === head,
    tabindex: index === head ? 0 : -1,
    onclick: () => pick(index),
  };
  const read = (found) => (found ? h("span", {}, `${percent(found[1])} ${tokenAt(found[0])}`) : null);
  const adds = `adds ${length.toFixed(2)}${pushes ? ` → ${label(pushes.ids[0])}` : ""}`;
  return h("button", attributes, small(index), h("b", {}, `Head ${index + 1}`), read(first), read(second), h("span", { class: "adds" }, adds));
}

function small(index) {
  const size = maps.tokens;
  const canvas = h("canvas", { width: size, height: size, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = colour("given");
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
  const image = pen.createImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    image.data.set([red, green, blue, maps.bytes[index * size * size + i]], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

function heads() {
  changed();
  $("read-from").replaceChildren(...(weights ? most(head).slice(0, READ).map(reading) : []));
  $("reads").textContent = weights ? `Head ${head + 1} of block ${layer()} reads from` : "";
  const { attention, vectors } = block;
  $("attention-strips").replaceChildren(strip("What all heads add to the stream", floats(vectors.attention)));
  const own = block.heads[head]?.pushes;
  const lines = own ? [`Head ${head + 1} alone raises `, ...named(own), ". "] : [];
  $("attention-pushes").replaceChildren(...lines, ...(attention.pushes ? ["Together they raise ", ...named(attention.pushes), "."] : []));
  large();
}

const layer = () => place.layer + 1;

function reading([back, weight]) {
  const drawn = h("span", { class: "drawn" });
  drawn.style.width = `${100 * weight}%`;
  const where = back === 0 ? `${tokenAt(back)} itself` : tokenAt(back);
  const far = back === 0 ? "" : `, ${count(-back)} before`;
  return h(
    "li",
    { class: "bar" },
    h("span", { class: "word", "aria-label": `${where}${far}` }, where),
    h("span", { class: "track" }, drawn),
    h("span", { class: "number" }, percent(weight)),
  );
}

// The tokens that a part raises, by how much more than the average token's logit.
const named = ({ ids, by }) => ids.flatMap((id, at) => [at ? ", " : "", h("q", {}, label(id)), ` ${by[at].toFixed(2)}`]);

function mlp() {
  const { neurons, vectors, mlp: said } = block;
  const values = neurons && floats(neurons);
  const largest = values?.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  const busy = values?.reduce((sum, value) => sum + (Math.abs(value) > largest / 10 ? 1 : 0), 0);
  $("mlp-note").textContent =
    "Then, at this place alone: " +
    (values
      ? `${count(values.length)} neurons each look for a pattern in the stream, and add a row of their own where they find it. ${count(busy)} of them say more than a tenth of what the loudest does.`
      : "the MLP is of an extension, and only what it adds is known.");
  $("mlp-strips").replaceChildren(
    ...(values ? [strip(`What the neurons of block ${layer()} say`, values)] : []),
    strip("What they add to the stream", floats(vectors.mlp)),
    strip(`The stream after block ${layer()}`, floats(vectors.after)),
  );
  $("mlp-pushes").replaceChildren(
    ...(said.pushes ? ["It raises the logits of ", ...named(said.pushes), ", in nats above the average token."] : []),
  );
}

function large() {
  if (!$("whole").open || !maps) return;
  const name = `Attention of head ${head + 1}, block ${layer()}: rows read from columns`;
  map.show({ ...maps, head, at: place.at, label: name, names: place.ids.map(label) });
}
