// The fleet in numbers: what is full, what waits, what was refused; and one bar for all devices.

import { Bar } from "./bar.js";
import { element, setText } from "./dom.js";
import { KINDS, tokens, totals } from "./shares.js";
import { bytes, count, percent } from "./words.js";

// Kinds that are in the legend also while there are none of them: what the map is read by.
const ALWAYS = new Set(["weights", "overhead", "kv-used", "kv-free", "foreign", "free"]);

export class Summary {
  constructor(tiles, bar, legend) {
    this.bar = new Bar(bar);
    this.barRoot = bar;
    this.tiles = new Map();
    for (const name of ["KV cache used", "Waiting", "Under way", "Served", "Refused", "Failed", "Models not ready"]) {
      const value = element("dd");
      tiles.append(element("div", "tile", element("dt", "", name), value));
      this.tiles.set(name, value);
    }
    this.legend = new Map();
    for (const { kind, name, mark } of KINDS) {
      const value = element("span", "value");
      const swatch = element("span", `swatch part ${kind}`);
      const item = element("li", "", swatch, element("b", "mark", mark), element("span", "", name), value);
      legend.append(item);
      this.legend.set(kind, { item, value });
    }
  }

  update(nodes, replicas, live, rates, waiting) {
    const { kinds, usable } = totals(nodes, replicas);
    const isKnown = usable > 0;
    this.barRoot.parentElement.hidden = !isKnown;
    if (isKnown) {
      const parts = KINDS.filter(({ kind }) => kinds.get(kind)).map(({ kind }) => ({ kind, bytes: kinds.get(kind) }));
      this.bar.update(parts, Math.max(usable, parts.reduce((sum, one) => sum + one.bytes, 0)));
      for (const [kind, { item, value }] of this.legend) {
        const size = kinds.get(kind) ?? 0;
        item.hidden = !size && !ALWAYS.has(kind);
        setText(value, size ? `${bytes(size)}, ${percent(size / usable)}` : "none");
      }
    }
    const kv = tokens(replicas);
    const there = [...replicas.values()].reduce((sum, one) => sum + (one.numThere ?? one.numInFlight), 0);
    this.tile("KV cache used", kv === null ? "unknown" : percent(kv.held / kv.capacity), kv !== null && kv.held / kv.capacity >= 0.9);
    this.tile("Waiting", count(live.numWaiting), live.numWaiting > 0);
    this.tile("Under way", count(there), false);
    const each = (kind) => (rates === null ? "…" : `${rates[kind] < 10 ? rates[kind].toFixed(1) : count(rates[kind])}/s`);
    this.tile("Served", each("served"), false);
    this.tile("Refused", each("refused"), rates !== null && rates.refused > 0);
    this.tile("Failed", each("failed"), rates !== null && rates.failed > 0);
    this.tile("Models not ready", count(waiting.length), waiting.length > 0);
  }

  tile(name, text, isTold) {
    const value = this.tiles.get(name);
    setText(value, text);
    value.parentElement.classList.toggle("told", isTold);
  }
}
