// Questions to the server that the page came from; no other address is ever asked.

import { store, stored } from "./stored.js";

const kept = new Map(); // answers that cannot change: the same checkpoint says the same of the same ids
const KEPT = 80;

// Off this machine the address that was printed ends in #token=…, a part that browsers never send.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) store("token", given, "sessionStorage");
const token = given ?? stored("token", "sessionStorage");
let refused = () => {}; // hears of every question that the server does not take
export const whenRefused = (work) => (refused = work);
const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };

export async function get(path) {
  return answer(await fetch(path, { headers }));
}

export async function ask(name, body) {
  return answer(await post(name, body));
}

export async function askOnce(name, body) {
  const key = `${name} ${JSON.stringify(body)}`;
  if (!kept.has(key)) {
    kept.set(key, ask(name, body));
    kept.get(key).catch(() => kept.delete(key));
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(key);
}

// The objects of a streamed answer, each as it arrives.
export async function* stream(name, body, signal) {
  const response = await post(name, body, signal);
  if (!response.ok) await answer(response);
  const decoder = new TextDecoder();
  let rest = "";
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + decoder.decode(part.value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const value = JSON.parse(line);
      if (value.error) throw new Error(value.error.message);
      yield value;
    }
  }
}

async function post(name, body, signal) {
  const response = await fetch(`play/${name}`, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (response.status === 400) refused();
  return response;
}

async function answer(response) {
  const value = await response.json().catch(() => null);
  if (!response.ok) throw new Error(value?.error?.message ?? `the server answered ${response.status}`);
  return value;
}

export function floats(base64) {
  const bytes = unpack(base64);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

export const unpack = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
