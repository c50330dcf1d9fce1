// What each id looks like: as text, and as a label on which spaces and line ends can be seen.

const encoder = new TextEncoder();
const SEEN = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍" };

export class Vocabulary {
  constructor(texts, special) {
    this.texts = texts;
    this.special = new Set(Object.values(special));
  }

  bytes(id) {
    const text = this.texts[id];
    return typeof text === "string" ? encoder.encode(text) : Uint8Array.from(text);
  }

  // The text that each id of a row adds; a character of several ids comes with its last one.
  pieces(ids) {
    const decoder = new TextDecoder();
    return ids.map((id) => decoder.decode(this.bytes(id), { stream: true }));
  }

  label(id) {
    const text = this.texts[id];
    if (typeof text !== "string") return `<${Array.from(text, (b) => b.toString(16).padStart(2, "0")).join(" ")}>`;
    return (
      text.replace(/[ \n\t\r]/g, (c) => SEEN[c]).replace(/\p{C}/gu, (c) => `\\u${c.codePointAt(0).toString(16)}`) || "∅"
    );
  }

  said(id) {
    const text = this.texts[id];
    if (this.special.has(id)) return text;
    if (typeof text !== "string") return "part of a character";
    return text.replace(/\n/g, " line end ").trim() || "space";
  }
}
