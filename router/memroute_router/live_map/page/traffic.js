// What waits and what was decided, put together for people. Facts in, values out.

/** Requests a second of each kind between two counts; null while there is one, or the router is new. */
export function rates(before, now) {
  if (!before || now.at <= before.at) return null;
  const elapsed = now.at - before.at;
  const found = {};
  for (const kind of Object.keys(now.counts)) {
    const more = now.counts[kind] - before.counts[kind];
    if (more < 0) return null;
    found[kind] = more / elapsed;
  }
  return found;
}

/** Requests that wait for the same thing, together; those that have waited longest first. */
export function waitingGroups(queue) {
  const groups = new Map();
  for (const one of queue) {
    const model = one.served_by ?? one.model ?? "";
    const key = `${model}\n${one.why}`;
    const group = groups.get(key) ?? {
      model, why: one.why, waitsFor: one.waits_for, number: 0, tokens: 0, longest: 0, tenants: new Set(),
    };
    group.number += 1;
    group.tokens += one.expected_tokens ?? 0;
    group.longest = Math.max(group.longest, one.waited_seconds ?? 0);
    if (one.tenant) group.tenants.add(one.tenant);
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => b.longest - a.longest);
}

/** Which decisions are shown, the latest first: those known before and the new ones, each once. */
export function mergedDecisions(before, now, most) {
  const known = new Map();
  for (const one of [...before, ...now]) known.set(`${one.at} ${one.id} ${one.outcome}`, one);
  return [...known].sort((a, b) => b[1].at - a[1].at).slice(0, most).map(([key, one]) => ({ ...one, key }));
}

/** Models that wait for something, with its reason; those that the operator has not told are this router's. */
export function waitingModels(fleet, live) {
  if (fleet !== null) return fleet.models.filter((one) => !one.isReady);
  return live.models
    .filter((one) => (one.numRoutable === 0 && !one.sleep) || one.unreadyReason)
    .map((one) => ({
      model: one.deployment ?? one.model, wanted: null, ready: one.numRoutable,
      reason: one.unreadyReason ?? "NoReplicaReady",
      message: one.numRoutable ? "" : `none of ${one.numReplicas} replicas takes requests`, since: null,
    }));
}
