// Asks the router once a second, and goes on asking when it does not answer. Polling, not a stream:
// it passes every proxy, and a router that was away is found again by the next question.

const PERIOD_MILLISECONDS = 1000;
const TIMEOUT_MILLISECONDS = 10_000;
const PAUSES_MILLISECONDS = [1000, 2000, 4000, 8000];

/** How long to wait after so many failures in a row: longer each time, and not all pages at once. */
export function pauseAfter(failures, chance) {
  const longest = PAUSES_MILLISECONDS[Math.min(failures, PAUSES_MILLISECONDS.length) - 1];
  return longest * (0.75 + 0.5 * chance);
}

export class Feed {
  /** `onData(live, fleet)` at each answer; `onState({state, since, why})` when that changes. */
  constructor(onData, onState) {
    this.onData = onData;
    this.onState = onState;
    this.fleet = null;
    this.fleetVersion = null;
    this.failures = 0;
    this.since = null;
    this.isPaused = false;
    this.timer = null;
    this.isAsking = false;
    document.addEventListener("visibilitychange", () => this.soon());
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    if (isPaused) this.onState({ state: "paused", since: new Date() });
    else this.soon();
  }

  soon() {
    if (!this.isAsking) this.askIn(0);
  }

  askIn(milliseconds) {
    clearTimeout(this.timer);
    if (this.isPaused || document.hidden) return;
    this.timer = setTimeout(() => this.ask(), milliseconds);
  }

  async ask() {
    this.isAsking = true;
    const began = performance.now();
    let pause;
    try {
      const live = await this.get("live.json");
      if (live.fleet.version !== null && live.fleet.version !== this.fleetVersion) {
        this.fleet = await this.get("fleet.json");
        this.fleetVersion = live.fleet.version;
      }
      this.failures = 0;
      this.since = null;
      if (!this.isPaused) {
        this.onData(live, this.fleet);
        this.onState({ state: "live", since: null });
      }
      pause = Math.max(0, PERIOD_MILLISECONDS - (performance.now() - began));
    } catch (error) {
      this.failures += 1;
      this.since ??= new Date();
      pause = pauseAfter(this.failures, Math.random());
      if (!this.isPaused) this.onState({ state: "disconnected", since: this.since, why: String(error.message ?? error) });
    }
    this.isAsking = false;
    this.askIn(pause);
  }

  async get(name) {
    const answer = await fetch(name, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
    if (answer.status === 503) throw new Error("too many look at this map now");
    if (!answer.ok) throw new Error(`the router answered ${answer.status}`);
    return answer.json();
  }
}
