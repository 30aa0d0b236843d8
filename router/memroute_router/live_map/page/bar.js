// One bar: parts side by side, each with its colour and pattern; KV caches fill and drain inside theirs.

import { element } from "./dom.js";
import { KINDS } from "./shares.js";

// Smaller changes of how full a KV cache is are not drawn: a tenth of a pixel.
const LEAST_CHANGE = 0.001;
// Parts of a large bar from this share on have room for their letter.
const LETTER_SHARE = 0.035;
const MARKS = new Map(KINDS.map((one) => [one.kind, one.mark]));

const share = (size, width) => `${((100 * size) / width).toFixed(2)}%`;

/** Draws parts into an element. */
export class Bar {
  constructor(root) {
    this.root = root;
    this.drawn = "";
    this.fills = [];
  }

  update(parts, width) {
    const shape = parts.map((part) => `${part.kind} ${part.bytes} ${part.pod ?? ""} ${part.kv === null}`).join() + width;
    if (shape !== this.drawn) {
      this.drawn = shape;
      this.fills = [];
      this.root.replaceChildren(...parts.map((part, index) => this.part(part, width, parts[index - 1])));
    }
    let index = 0;
    for (const part of parts) {
      if (part.kind !== "kv" || part.kv === null) continue;
      this.fill(this.fills[index], part.kv);
      index += 1;
    }
  }

  part(part, width, before) {
    const isKnown = part.kind !== "kv" || part.kv !== null;
    const drawn = element("span", `part ${isKnown ? part.kind : "kv-unknown"}`);
    drawn.style.width = share(part.bytes, width);
    if (before && part.pod && before.pod !== part.pod) drawn.classList.add("begins");
    if (part.bytes / width >= LETTER_SHARE) drawn.dataset.mark = MARKS.get(part.kind) ?? (isKnown ? "K" : "?");
    if (part.kind === "kv" && isKnown) {
      const fill = element("span", "fill");
      const tick = element("span", "tick");
      drawn.append(fill, tick);
      this.fills.push({ root: drawn, fill, tick, used: -1, projected: -1, isClosed: null });
    }
    return drawn;
  }

  fill(drawn, kv) {
    if (Math.abs(kv.used - drawn.used) > LEAST_CHANGE) {
      drawn.used = kv.used;
      drawn.fill.style.transform = `scaleX(${kv.used.toFixed(4)})`;
    }
    const projected = Math.min(1, kv.projected ?? 0);
    if (Math.abs(projected - drawn.projected) > LEAST_CHANGE) {
      drawn.projected = projected;
      drawn.tick.style.transform = `translateX(${(100 * (projected - 1)).toFixed(2)}%)`;
    }
    if (kv.isClosed !== drawn.isClosed) {
      drawn.isClosed = kv.isClosed;
      drawn.root.classList.toggle("closed", kv.isClosed);
    }
  }
}
