// From logits to what the next token is drawn from: the server's rules, in the server's order, on logits kept here.

// Returns, for each id: `logits` behind penalty and bans, `scaled` (÷ T), `soft` (their softmax), `kept` (1 or 0) and
// `probabilities`, what is drawn from.
export function distribution(raw, settings, banned = [], seen = []) {
  const logits = Float64Array.from(raw);
  for (const id of new Set(settings.repetition_penalty === 1 ? [] : seen)) {
    logits[id] = logits[id] < 0 ? logits[id] * settings.repetition_penalty : logits[id] / settings.repetition_penalty;
  }
  for (const id of banned) logits[id] = -Infinity;
  const greedy = settings.temperature === 0;
  const top = logits.reduce((best, value, id) => (value > logits[best] ? id : best), 0);
  const scaled = logits.map((value) => value / (greedy ? 1 : settings.temperature));
  const soft = softmax(scaled);
  const order = ranked(logits);
  const kept = greedy ? only(logits.length, top) : keep(scaled, soft, order, settings);
  const probabilities = softmax(scaled.map((value, id) => (kept[id] ? value : -Infinity)));
  return { logits, scaled, soft, kept, probabilities, order };
}

function keep(scaled, soft, order, { top_k, top_p, min_p }) {
  const kept = Uint8Array.from(scaled, (value) => (value > -Infinity ? 1 : 0));
  if (top_k > 0 && top_k < order.length) {
    const last = scaled[order[top_k - 1]];
    scaled.forEach((value, id) => (kept[id] &= value >= last ? 1 : 0)); // those equal to the last stay too
  }
  if (top_p < 1) {
    const chosen = order.filter((id) => kept[id]);
    const whole = chosen.reduce((sum, id) => sum + soft[id], 0);
    let behind = 0; // the mass of a token and all that are less likely; summed from small to large
    for (const id of chosen.reverse()) {
      behind += soft[id] / whole;
      if (behind <= 1 - top_p && id !== order[0]) kept[id] = 0;
    }
  }
  if (min_p > 0) soft.forEach((p, id) => (kept[id] &= p >= min_p * soft[order[0]] ? 1 : 0));
  return kept;
}

export function softmax(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = logits.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

export const ranked = (logits) => Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);

function only(length, id) {
  const kept = new Uint8Array(length);
  kept[id] = 1;
  return kept;
}

// In nats, as all that is said of losses and surprise.
export const entropy = (probabilities) => -probabilities.reduce((sum, p) => (p > 0 ? sum + p * Math.log(p) : sum), 0);
