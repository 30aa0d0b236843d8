// Whose the bytes of a device are: the operator's map joined with what this router knows of replicas.
// No document, no clock: facts in, values out. `node --test` runs its tests.

import { UNKNOWN, bytes, count, percent } from "./words.js";

/** What bytes are for, in the order in which they are drawn. `mark` is the letter of the legend. */
export const KINDS = [
  { kind: "weights", name: "weights", mark: "W" },
  { kind: "overhead", name: "engine overhead", mark: "O" },
  { kind: "kv-used", name: "KV cache, used", mark: "K" },
  { kind: "kv-free", name: "KV cache, free in the pool", mark: "k" },
  { kind: "kv-unknown", name: "KV cache, use unknown", mark: "?" },
  { kind: "promised", name: "promised, purpose unknown", mark: "P" },
  { kind: "foreign", name: "foreign, observed", mark: "F" },
  { kind: "unclear", name: "in use, whose is not clear yet", mark: "U" },
  { kind: "kept", name: "kept back, promised to nobody", mark: "–" },
  { kind: "free", name: "free", mark: "·" },
  { kind: "unknown", name: "nobody says whose", mark: "?" },
];

/** From which share of its KV cache on a replica counts as full, for the filter. */
export const FULL_RATIO = 0.8;

/** The rows of the live document by replica. */
export function byReplica(live) {
  const found = new Map();
  const columns = live.replicaColumns;
  for (const row of live.replicas) {
    const replica = {};
    for (let i = 0; i < columns.length; i += 1) replica[columns[i]] = row[i];
    found.set(replica.replica, replica);
  }
  return found;
}

/** How full the KV cache of a replica is; null where nobody knows. */
export function kvOf(replica) {
  if (!replica || !replica.capacityTokens || replica.heldTokens === null) return null;
  const capacity = replica.capacityTokens;
  const projected = replica.projectedTokens === null ? null : replica.projectedTokens / capacity;
  return {
    used: Math.min(1, replica.heldTokens / capacity),
    projected,
    ceiling: replica.ceilingRatio,
    isClosed: projected !== null && replica.ceilingRatio !== null && projected >= replica.ceilingRatio,
  };
}

let known = { replicas: null, parts: null };

/** The parts of a device, in the order of the bar; each has bytes, and `pod` where it has one.
 * Several ask for the same: what was put together for the same replicas is kept until there are others. */
export function partsOf(device, replicas) {
  if (known.replicas !== replicas) known = { replicas, parts: new Map() };
  let parts = known.parts.get(device);
  if (parts === undefined) {
    parts = putTogether(device, replicas);
    known.parts.set(device, parts);
  }
  return parts;
}

function putTogether(device, replicas) {
  if (device.promised === null) return [{ kind: "unknown", bytes: device.usable }];
  const parts = [];
  const add = (kind, size, more) => {
    if (size > 0) parts.push({ kind, bytes: size, ...more });
  };
  for (const holder of device.holders) {
    const pod = holder.pod;
    add("weights", holder.weights, { pod });
    add("overhead", holder.overhead, { pod });
    add("kv", holder.kv, { pod, kv: kvOf(replicas.get(pod)) });
    add("promised", holder.other, { pod });
  }
  add("promised", device.otherPromised);
  add("foreign", device.foreign);
  // Unclear use may be that of a replica which starts, and is in its promise: what is beyond the bar is.
  const left = () => device.usable - (device.free ?? 0) - parts.reduce((sum, part) => sum + part.bytes, 0);
  add("unclear", Math.min(device.unclear, left()));
  add("kept", left());
  add("free", device.free);
  return parts;
}

/** What a bar's full width stands for: all that can be used, or all that is promised, if that is more. */
export function widthOf(device, parts) {
  return Math.max(device.usable, parts.reduce((sum, part) => sum + part.bytes, 0), 1);
}

/** Bytes by kind, the KV cache cut into used and free. */
export function byKind(parts, into = new Map()) {
  const add = (kind, size) => into.set(kind, (into.get(kind) ?? 0) + size);
  for (const part of parts) {
    if (part.kind !== "kv") add(part.kind, part.bytes);
    else if (part.kv === null) add("kv-unknown", part.bytes);
    else {
      add("kv-used", part.bytes * part.kv.used);
      add("kv-free", part.bytes * (1 - part.kv.used));
    }
  }
  return into;
}

/** The fullest KV cache on a device; null where none is known. */
export function fullest(parts) {
  let most = null;
  for (const part of parts) {
    if (part.kind === "kv" && part.kv !== null && (most === null || part.kv.used > most.used)) most = part.kv;
  }
  return most;
}

/** One device in a sentence, for those who do not see its bar. */
export function sentence(device, parts, node) {
  const said = device.isReplica
    ? [`${device.holders[0].pod}, ${node.isReplicas ? "device unknown" : `on ${node.node}, device unknown`}`]
    : [`${node.node}, device ${device.index}, ${bytes(device.usable)}`];
  const why = device.unusable ?? node.unusable;
  if (why) said.push(`not usable: ${why}`);
  const kinds = byKind(parts);
  for (const { kind, name } of device.isReplica ? [] : KINDS) {
    const size = kinds.get(kind);
    if (size) said.push(`${name} ${bytes(size)}`);
  }
  const most = fullest(parts);
  if (most) said.push(`fullest KV cache ${percent(most.used)}${most.isClosed ? ", closed" : ""}`);
  if (device.holders.length && !device.isReplica) said.push(device.holders.map((one) => one.pod).join(", "));
  return said.join("; ");
}

/** Whether a device is one of those that are asked for. */
export function isShown(device, parts, node, asked) {
  if (asked.shown === "full" && !((fullest(parts)?.used ?? 0) >= FULL_RATIO)) return false;
  if (asked.shown === "foreign" && !(device.foreign > 0)) return false;
  if (asked.shown === "unusable" && !(device.unusable || node.unusable || device.promised === null)) return false;
  const words = asked.find.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const text = [
    node.node, device.product ?? "", device.uuid ?? "", `gpu ${device.index}`, ...device.strangers,
    ...device.holders.flatMap((one) => [one.pod, one.model]),
  ].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** A replica as a device of its own: where nobody says on which it is. Its bar is its KV cache. */
function alone(holder, index, capacityTokens) {
  return {
    index,
    isReplica: true,
    uuid: null,
    product: null,
    // Tokens take the place of bytes: a bar needs a width, and how full it is is a ratio.
    usable: capacityTokens ?? 1,
    promised: 0,
    otherPromised: 0,
    observed: null,
    observedAgeSeconds: null,
    foreign: null,
    unclear: 0,
    free: null,
    unusable: null,
    strangers: [],
    holders: [{ ...holder, promised: holder, weights: 0, overhead: 0, other: 0, kv: capacityTokens ?? 1 }],
  };
}

/** The operator's map with a place for each replica of which nobody says on which device it is. */
export function placed(fleet) {
  if (fleet === null) return null;
  const nodes = fleet.nodes.map((node) => ({
    ...node,
    devices: [...node.devices, ...(node.unattributed ?? []).map((holder, index) => alone(holder, index, holder.kv))],
  }));
  return { ...fleet, nodes: nodes.filter((node) => node.devices.length > 0 || node.devicesUnknown) };
}

/** Nodes and their devices to draw; replicas that the operator's map has not make a node of their own.
 * `fleet`: as `placed` has made it; null where there is none. */
export function nodesOf(fleet, live) {
  const nodes = fleet === null ? [] : fleet.nodes;
  const placedPods = new Set(nodes.flatMap((node) => node.devices.flatMap((one) => one.holders.map((h) => h.pod))));
  const others = live.replicas.filter((row) => !placedPods.has(row[0]));
  if (!others.length) return nodes;
  const column = (name) => live.replicaColumns.indexOf(name);
  const devices = others.map((row, index) => alone(
    { pod: row[0], model: row[column("deployment")], state: null }, index, row[column("capacityTokens")],
  ));
  const name = fleet === null ? "replicas" : "replicas that are on no device of the map";
  return [...nodes, { node: name, isReplicas: true, resource: null, mode: null, unusable: null, devicesUnknown: null, numDevices: devices.length, devices }];
}

/** The sums over all devices. */
export function totals(nodes, replicas) {
  const kinds = new Map();
  const names = new Set();
  let usable = 0;
  let numDevices = 0;
  let numReplicas = 0;
  for (const node of nodes) {
    if (!node.isReplicas) names.add(node.node);
    for (const device of node.devices) {
      if (device.isReplica) {
        numReplicas += 1;
        continue;
      }
      usable += device.usable;
      numDevices += 1;
      byKind(partsOf(device, replicas), kinds);
    }
  }
  return { kinds, usable, numDevices, numReplicas, numNodes: names.size };
}

/** Tokens in all KV caches that are known, and those that fit; null where none is known. */
export function tokens(replicas) {
  let held = 0;
  let capacity = 0;
  for (const replica of replicas.values()) {
    if (kvOf(replica) === null) continue;
    held += replica.heldTokens;
    capacity += replica.capacityTokens;
  }
  return capacity ? { held, capacity } : null;
}

/** A replica's KV cache in words. */
export function kvWords(replica) {
  const kv = kvOf(replica);
  if (kv === null) return UNKNOWN;
  return `${percent(kv.used)}: ${count(replica.heldTokens)} of ${count(replica.capacityTokens)} tokens`;
}
