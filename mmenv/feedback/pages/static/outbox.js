// Unsent answers: kept in localStorage until the server has confirmed them.
//
// Each answer is an entry of its own, so that two tabs never overwrite each other's. Its key makes sending it twice
// harmless, and it names its annotator.

const PREFIX = "mmenv/outbox/";
const REFUSED_PREFIX = "mmenv/refused/";
const RETRY_AFTER = [500, 1000, 2000, 4000, 8000, 15000]; // milliseconds
const TIMEOUT = 20000;

export class Refused extends Error {} // the server refuses the request
export class SignedOut extends Error {} // the server wants its token
export class Renamed extends Error {} // somebody else labels in this browser now

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT),
  });
  if (response.ok) return response.json();
  if (response.status === 401) throw new SignedOut("sign in again");
  const reason = detailOf(await response.text()) || `status ${response.status}`;
  if (response.status === 409) throw new Renamed(reason);
  if (response.status >= 500) throw new Error(reason);
  throw new Refused(reason);
}

function detailOf(text) {
  try {
    const detail = JSON.parse(text).detail;
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return text.slice(0, 300);
  }
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // unlike randomUUID it works without https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  // Only answers of this annotator to items of this store are sent: others wait until their page is opened again.
  // onChange(): the unsent answers or the trouble have changed; onSent(reply): the server's reply to an answer.
  constructor(store, annotator, onChange, onSent) {
    Object.assign(this, { store, annotator, onChange, onSent });
    this.trouble = null; // the error of the last attempt
    this.refused = []; // {item, reason} of answers that the server refused
    this.durable = true; // whether localStorage works
    this.entries = this.stored();
    this.attempts = 0;
    this.sending = null;
    this.wake = () => {};
    addEventListener("online", () => this.retryNow());
    addEventListener("storage", (event) => event.key?.startsWith(PREFIX) && this.removedElsewhere(event));
  }

  stored() {
    const entries = [];
    this.tryStorage(() => {
      for (const [name, text] of Object.entries(localStorage)) {
        if (!name.startsWith(PREFIX)) continue;
        const entry = { ...JSON.parse(text), tried: true };
        if (entry.store === this.store && entry.body.annotator === this.annotator) entries.push(entry);
      }
    });
    return entries.sort((a, b) => a.at - b.at);
  }

  tryStorage(change) {
    try {
      change();
    } catch (error) {
      if (!(error instanceof SyntaxError)) this.durable = false; // a broken entry is not a broken storage
    }
  }

  // Another tab has sent an answer of ours.
  removedElsewhere(event) {
    if (event.newValue !== null) return;
    this.entries = this.entries.filter((entry) => PREFIX + entry.body.key !== event.key);
    this.onChange();
  }

  add(judgement) {
    const body = { annotator: this.annotator, ...judgement };
    const entry = { at: Date.now(), store: this.store, body };
    this.entries.push(entry);
    this.tryStorage(() => localStorage.setItem(PREFIX + body.key, JSON.stringify(entry)));
    this.onChange();
    this.flush();
  }

  remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    this.tryStorage(() => localStorage.removeItem(PREFIX + entry.body.key));
    this.onChange();
  }

  // Take back the latest answer if sending it was never tried: its body, or null.
  withdraw() {
    const entry = this.entries.at(-1);
    if (!entry || entry.tried) return null;
    this.remove(entry);
    return entry.body;
  }

  // Ids of the items of unsent answers.
  items() {
    return this.entries.map((entry) => entry.body.item);
  }

  retryNow() {
    this.attempts = 0;
    this.wake();
  }

  // Send everything, the oldest first; resolves when nothing is unsent.
  flush() {
    this.sending ??= this.sendAll().finally(() => (this.sending = null));
    return this.sending;
  }

  async sendAll() {
    while (this.entries.length) {
      if (!(await this.send(this.entries[0]))) await this.pause();
    }
  }

  async send(entry) {
    entry.tried = true;
    try {
      const reply = await post("/api/judgements", entry.body);
      if (this.trouble) this.attempts = 0;
      this.trouble = null;
      this.remove(entry);
      this.onSent(reply);
    } catch (error) {
      if (!(error instanceof Refused)) {
        this.trouble = error;
        this.onChange();
        return false;
      }
      this.refuse(entry, error.message);
    }
    return true;
  }

  // A refused answer must not block the others; it is stored elsewhere.
  refuse(entry, reason) {
    this.refused.push({ item: entry.body.item, reason });
    const text = JSON.stringify({ ...entry, why: reason });
    this.tryStorage(() => localStorage.setItem(REFUSED_PREFIX + entry.body.key, text));
    this.remove(entry);
  }

  pause() {
    const delay = RETRY_AFTER[Math.min(this.attempts++, RETRY_AFTER.length - 1)];
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
