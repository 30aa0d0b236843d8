// What is put together in the browser, without one: `node --test tests/map/*.test.mjs`.

import assert from "node:assert/strict";
import { test } from "node:test";

const page = new URL("../../router/memroute_router/live_map/page/", import.meta.url);
const { byKind, byReplica, fullest, isShown, nodesOf, partsOf, placed, sentence, totals, widthOf } = await import(new URL("shares.js", page));
const { mergedDecisions, rates, waitingGroups } = await import(new URL("traffic.js", page));
const { bytes, percent, product, seconds } = await import(new URL("words.js", page));
const { pauseAfter } = await import(new URL("feed.js", page));

const GIB = 1024 ** 3;
const HOLDER = { pod: "a/x-0", model: "a/x", state: "Serving", weights: 16 * GIB, overhead: 4 * GIB, kv: 20 * GIB, other: 0 };
const DEVICE = {
  index: 3, uuid: "GPU-1", product: "NVIDIA-L40S", usable: 44 * GIB, promised: 40 * GIB, otherPromised: 0, observed: null,
  observedAgeSeconds: null, foreign: 1 * GIB, unclear: 0, free: 2 * GIB, unusable: null, holders: [HOLDER], strangers: [],
};
const NODE = { node: "n", resource: null, unusable: null, devicesUnknown: null, numDevices: 1, devices: [DEVICE], unattributed: [] };
const COLUMNS = ["replica", "deployment", "capacityTokens", "heldTokens", "projectedTokens", "ceilingRatio", "numInFlight"];
const LIVE = { replicaColumns: COLUMNS, replicas: [["a/x-0", "a/x", 1000, 250, 960, 0.95, 2]] };

test("a device's bytes by owner sum up to what it has", () => {
  const parts = partsOf(DEVICE, byReplica(LIVE));
  assert.deepEqual(parts.map((one) => one.kind), ["weights", "overhead", "kv", "foreign", "kept", "free"]);
  assert.equal(parts.reduce((sum, one) => sum + one.bytes, 0), DEVICE.usable);
  const kinds = byKind(parts);
  assert.equal(kinds.get("kv-used"), 5 * GIB);
  assert.equal(kinds.get("kv-free"), 15 * GIB);
});

test("a cache of which nobody knows how full it is, is unknown and not empty", () => {
  const parts = partsOf(DEVICE, new Map());
  assert.equal(byKind(parts).get("kv-unknown"), 20 * GIB);
  assert.equal(fullest(parts), null);
  const unread = byReplica({ ...LIVE, replicas: [["a/x-0", "a/x", 1000, null, null, 0.95, 2]] });
  assert.equal(byKind(partsOf(DEVICE, unread)).get("kv-unknown"), 20 * GIB);
});

test("a device of which nobody says who has it, is no free one", () => {
  assert.deepEqual(partsOf({ ...DEVICE, promised: null }, new Map()).map((one) => one.kind), ["unknown"]);
});

test("what is promised beyond the device still fits its bar", () => {
  const over = { ...DEVICE, otherPromised: 30 * GIB };
  const parts = partsOf(over, new Map());
  assert.ok(widthOf(over, parts) >= parts.reduce((sum, one) => sum + one.bytes, 0));
});

test("use that may be a starting replica's own is not drawn twice", () => {
  const parts = partsOf({ ...DEVICE, unclear: 40 * GIB, free: 0 }, new Map());
  assert.equal(parts.reduce((sum, one) => sum + one.bytes, 0), DEVICE.usable);
});

test("a replica that is projected to its limit is closed", () => {
  assert.equal(fullest(partsOf(DEVICE, byReplica(LIVE))).isClosed, true);
  assert.match(sentence(DEVICE, partsOf(DEVICE, byReplica(LIVE)), NODE), /^n, device 3, 44\.0 GiB; weights 16\.0 GiB; .*closed; a\/x-0$/);
});

test("replicas that the map has not are shown by themselves, with a file as with a late operator", () => {
  const [own] = nodesOf(null, LIVE);
  assert.equal(own.isReplicas, true);
  assert.equal(fullest(partsOf(own.devices[0], byReplica(LIVE))).used, 0.25);
  assert.equal(nodesOf(placed({ nodes: [NODE] }), LIVE).length, 1);
});

test("a replica on a node, of which nobody says the device, is shown on that node", () => {
  const map = placed({ nodes: [{ ...NODE, devices: [], numDevices: 8, unattributed: [{ ...HOLDER, numDevices: 2 }] }] });
  const nodes = nodesOf(map, LIVE);
  assert.equal(nodes.length, 1);
  assert.deepEqual(nodes[0].devices.map((one) => one.isReplica), [true]);
  assert.equal(totals(nodes, new Map()).usable, 0);
});

test("devices are found by model, pod, node and product, all words together", () => {
  const parts = partsOf(DEVICE, byReplica(LIVE));
  const asked = (find, shown = "all") => isShown(DEVICE, parts, NODE, { find, shown });
  assert.ok(asked("l40s X-0"));
  assert.ok(!asked("l40s other"));
  assert.ok(asked("", "foreign"));
  assert.ok(!asked("", "full"));
});

test("numbers read as people write them, and unknown is a word", () => {
  assert.equal(bytes(null), "unknown");
  assert.equal(bytes(1.5 * GIB), "1.5 GiB");
  assert.equal(bytes(2048 * GIB), "2.0 TiB");
  assert.equal(percent(0.999), "99 %", "full is said of what is full");
  assert.equal(percent(1.2), "120 %");
  assert.equal(seconds(0.05), "50 ms");
  assert.equal(seconds(600), "10 min");
  assert.equal(product("NVIDIA-H100-80GB-HBM3"), "H100 80GB");
  assert.equal(product("AMD-Instinct-MI300X"), "Instinct MI300X");
});

test("rates are none while a router is new, and none across its restart", () => {
  const at = (seconds, served) => ({ at: seconds, counts: { served } });
  assert.equal(rates(at(1, 5), at(1, 5)), null);
  assert.deepEqual(rates(at(1, 5), at(3, 25)), { served: 10 });
  assert.equal(rates(at(1, 5), at(3, 2)), null);
});

test("requests that wait for the same thing are one line", () => {
  const one = { served_by: "m", why: "w", waits_for: "room", expected_tokens: 10, waited_seconds: 1, tenant: "a" };
  const [first, second] = waitingGroups([one, { ...one, waited_seconds: 4, tenant: "b" }, { ...one, why: "v" }]);
  assert.deepEqual([first.number, first.tokens, first.longest, first.tenants.size], [2, 20, 4, 2]);
  assert.equal(second.number, 1);
});

test("a decision is shown once, the latest first, and no more than asked for", () => {
  const one = (at, id) => ({ at, id, outcome: "served" });
  const shown = mergedDecisions([one(1, "a"), one(2, "b")], [one(2, "b"), one(3, "c")], 2);
  assert.deepEqual(shown.map((each) => each.id), ["c", "b"]);
});

test("a router that is away is asked less and less often, but at least every ten seconds", () => {
  assert.equal(pauseAfter(1, 0.5), 1000);
  assert.ok(pauseAfter(50, 1) <= 10_000);
});
