// Answers on their way: kept in localStorage until the server has said that it holds them.
//
// Each answer is an entry of its own, so that two tabs never overwrite each other's. It carries the key that makes
// sending it twice harmless, and the name of who gave it.

const PREFIX = "mmenv/outbox/";
const PATIENCE = [500, 1000, 2000, 4000, 8000, 15000]; // milliseconds between tries
const ANSWER_WITHIN = 20000;

export class Refused extends Error {} // the server understood, and says no
export class SignedOut extends Error {} // the server wants its token
export class Renamed extends Error {} // somebody else has begun to label in this browser

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(ANSWER_WITHIN),
  });
  if (response.ok) return response.json();
  if (response.status === 401) throw new SignedOut("sign in again");
  const text = await response.text();
  if (response.status === 409) throw new Renamed(reason(text));
  if (response.status >= 500) throw new Error(reason(text) || `status ${response.status}`);
  throw new Refused(reason(text) || `status ${response.status}`);
}

function reason(text) {
  try {
    const detail = JSON.parse(text).detail;
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return text.slice(0, 300);
  }
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // there also without https, where randomUUID is not
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  // Only answers of ``annotator`` to items of ``store`` are sent: others wait until their page is opened again.
  // onChange(outbox): what waits has changed; onSent(answer): the server's reply to one that arrived.
  constructor(store, annotator, onChange, onSent) {
    this.store = store;
    this.annotator = annotator;
    this.onChange = onChange;
    this.onSent = onSent;
    this.trouble = null; // why sending does not work at present
    this.refused = []; // answers that the server will not have, with its reasons
    this.durable = true; // whether the browser keeps what it is given
    this.entries = this.stored();
    this.tries = 0;
    this.running = null;
    this.wake = () => {};
    addEventListener("online", () => this.hurry());
    addEventListener("storage", (event) => event.key?.startsWith(PREFIX) && this.forget(event));
  }

  stored() {
    const found = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const name = localStorage.key(i);
        if (!name.startsWith(PREFIX)) continue;
        const entry = { ...JSON.parse(localStorage.getItem(name)), tried: true };
        if (entry.store === this.store && entry.body.annotator === this.annotator) found.push(entry);
      }
    } catch (error) {
      if (!(error instanceof SyntaxError)) this.durable = false;
    }
    return found.sort((a, b) => a.at - b.at);
  }

  // Another tab has sent one of ours.
  forget(event) {
    if (event.newValue !== null) return;
    this.entries = this.entries.filter((entry) => PREFIX + entry.body.key !== event.key);
    this.onChange(this);
  }

  add(body) {
    const entry = { at: Date.now(), store: this.store, body };
    this.entries.push(entry);
    try {
      localStorage.setItem(PREFIX + body.key, JSON.stringify(entry));
    } catch {
      this.durable = false;
    }
    this.onChange(this);
    this.flush();
  }

  remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    try {
      localStorage.removeItem(PREFIX + entry.body.key);
    } catch {
      this.durable = false;
    }
    this.onChange(this);
  }

  // Take back the latest answer, if it was never on its way. Its body, or null.
  withdraw(annotator) {
    const entry = this.entries.at(-1);
    if (!entry || entry.tried || entry.body.annotator !== annotator) return null;
    this.remove(entry);
    return entry.body;
  }

  itemsOf(annotator) {
    return this.entries.filter((entry) => entry.body.annotator === annotator).map((entry) => entry.body.item);
  }

  hurry() {
    this.tries = 0;
    this.wake();
  }

  // Send everything, the oldest first; resolves when nothing waits.
  flush() {
    this.running ??= this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    while (this.entries.length) {
      if (!(await this.send(this.entries[0]))) await this.pause();
    }
  }

  async send(entry) {
    entry.tried = true;
    try {
      const reply = await post("/api/judgements", entry.body);
      this.recover();
      this.remove(entry);
      this.onSent(reply, entry.body);
    } catch (error) {
      if (error instanceof Refused) {
        this.refused.push({ body: entry.body, reason: error.message });
        this.keepRefused(entry, error.message);
      } else {
        this.trouble = error;
        this.onChange(this);
        return false;
      }
    }
    return true;
  }

  // What the server refuses must not block the rest, and is still not thrown away.
  keepRefused(entry, why) {
    try {
      localStorage.setItem("mmenv/refused/" + entry.body.key, JSON.stringify({ ...entry, why }));
    } catch {
      this.durable = false;
    }
    this.remove(entry);
  }

  recover() {
    if (!this.trouble) return;
    this.trouble = null;
    this.tries = 0;
    this.onChange(this);
  }

  pause() {
    const delay = PATIENCE[Math.min(this.tries++, PATIENCE.length - 1)];
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
