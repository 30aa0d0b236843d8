// What was decided, request by request, as their answers end.

import { element } from "./dom.js";
import { mergedDecisions } from "./traffic.js";
import { clock, count, seconds, shortName } from "./words.js";

const MOST = 100;
const SIGNS = { served: "✓", refused: "⊘", failed: "✕", mistaken: "!" };

export class Decisions {
  constructor(list, note) {
    this.list = list;
    this.note = note;
    this.known = [];
    this.items = new Map();
    this.router = null;
  }

  update(live, shown) {
    if (live.router.name !== this.router) {
      this.router = live.router.name;
      this.known = [];
    }
    this.known = mergedDecisions(this.known, live.decisions, MOST);
    const asked = this.known.filter((one) => shown === "all" || one.kind === "refused" || one.kind === "failed");
    const items = new Map(asked.map((one) => [one.key, this.items.get(one.key) ?? item(one)]));
    // Those that are there stay where they are: only new ones come, and old ones go.
    for (const [key, made] of this.items) if (!items.has(key)) made.remove();
    let before = this.list.firstChild;
    for (const made of items.values()) {
      if (made === before) before = before.nextSibling;
      else this.list.insertBefore(made, before);
    }
    this.items = items;
    const text = asked.length ? "" : "none yet";
    if (this.note.textContent !== text) this.note.textContent = text;
    this.note.hidden = asked.length > 0;
    this.list.hidden = asked.length === 0;
  }
}

function item(one) {
  const sign = element("span", `sign ${one.kind}`, SIGNS[one.kind] ?? "?");
  sign.setAttribute("aria-hidden", "true");
  const facts = [`${count(one.expectedTokens)} tokens`];
  if (one.queueSeconds) facts.push(`waited ${seconds(one.queueSeconds)}`);
  if (one.firstByteSeconds !== null) facts.push(`first byte ${seconds(one.firstByteSeconds)}`);
  facts.push(`took ${seconds(one.seconds)}`);
  if (one.attempts > 1) facts.push(`${one.attempts} attempts`);
  const head = element("p", "line", sign, element("span", "quiet", clock(new Date(one.at * 1000))), " ",
    element("b", "", one.outcome), one.kind === "served" ? "" : ` ${one.status}`, " ",
    element("span", "", one.model || "no model"));
  if (one.replica) head.append(" → ", element("span", "pod", shortName(one.replica)));
  const made = element("li", one.kind, head, element("p", "quiet", facts.join(", ")));
  if (one.why) made.append(element("p", "why", one.cause ? `${one.cause}: ${one.why}` : one.why));
  return made;
}
