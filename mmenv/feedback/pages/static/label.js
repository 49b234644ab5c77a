// The labelling page: one item after another, the next ones fetched ahead, and no answer ever lost.

import { Outbox, Refused, Renamed, SignedOut, newKey, post } from "./outbox.js";
import { copyTemplate, createPlayer } from "./player.js";
import * as modes from "./judging.js";

const QUEUE_LENGTH = 4; // items that are fetched, the one on the screen included
const LINGER = 190; // milliseconds for which an answer is shown before the next item
const LONGEST_PACE = 120; // seconds; a longer answer counts as a pause
const PICTURE_WAIT = 800; // milliseconds
const OUTBOX_WAIT = 3000;
const element = (id) => document.getElementById(id);
const stage = element("stage");
const { mode, annotator, store } = stage.dataset;
const buttons = Object.fromEntries(["undo", "skip", "tie", "done"].map((id) => [id, element(id)]));

let queue = []; // {view, card, judge, prompt, spoken}: the first is on the screen
const answered = new Map(); // item id -> view, to undo an answer without the server
let counts = null;
let open = false; // whether an answer is accepted now
let shownCard = null;
let shownAt = 0;
let leaving = false; // between an answer and the next item
let hiddenMilliseconds = 0; // for which the page was not visible
let hiddenAt = 0;
let paces = []; // seconds of the latest answers
let serverPace = null; // the annotator's pace in earlier sessions
let fetching = null;
let fetchAgain = 0; // timer
let fetchError = null;
let undoing = false;

const outbox = new Outbox(store, annotator, showState, (reply) => setCounts(reply.counts));

// ---- items

function buildCard(view) {
  const card = copyTemplate("item-template");
  const entry = { view, card };
  card.dataset.item = view.id;
  card.querySelector(".prompt").textContent = view.prompt || (view.audio ? "Listen to the prompt." : "No prompt.");
  card.classList.toggle("spoken", Boolean(view.audio));
  card.classList.toggle("bare", !view.image && !view.audio);
  if (view.image) addPicture(card, view.image, entry);
  if (view.audio) {
    entry.prompt = createPlayer(view.audio, "the prompt");
    card.querySelector(".media").append(entry.prompt);
    showKey("prompt");
  }
  entry.spoken = view.responses.map((response, place) => addResponse(card, response, place));
  if (entry.spoken.some(Boolean)) showKey("responses");
  const whenReady = (ready) => entry === queue[0] && setReady(ready);
  entry.judge = modes[mode](card, (judgement) => answer(entry, judgement), whenReady);
  return entry;
}

// The list of keys names those for sounds only once there is a sound.
function showKey(sound) {
  document.querySelector(`#keys [data-sound=${sound}]`).hidden = false;
}

function addPicture(card, url, entry) {
  const figure = card.querySelector(".picture");
  const image = figure.querySelector("img");
  figure.hidden = false;
  image.addEventListener("error", () => figure.classList.add("missing"));
  image.addEventListener("load", () => {
    figure.classList.remove("missing");
    figure.classList.toggle("pixels", image.naturalWidth <= 256);
  });
  image.src = url;
  entry.decoded = image.decode().catch(() => {});
  entry.reload = () => figure.classList.contains("missing") && (image.src = url);
}

function addResponse(card, response, place) {
  const item = copyTemplate("response-template");
  const text = item.querySelector(".text");
  const silent = !response.text.trim();
  item.querySelector("kbd").textContent = place + 1;
  text.textContent = silent ? "(empty response)" : response.text;
  text.classList.toggle("silence", silent);
  card.querySelector(".responses").append(item);
  if (!response.audio) return null;
  const player = createPlayer(response.audio, `response ${place + 1}`);
  item.append(player);
  return player;
}

// Fetch until the queue is full. Items of unsent answers are still ours at the server, and must not come again.
function fill() {
  fetching ??= fetchItems().finally(() => (fetching = null));
  return fetching;
}

async function fetchItems() {
  while (queue.length < QUEUE_LENGTH) {
    let reply;
    try {
      const ids = new Set([...queue.map((entry) => entry.view.id), ...outbox.items()]);
      reply = await post("/api/next", { annotator, queue: [...ids].slice(0, 64) });
    } catch (error) {
      fetchError = error;
      showState();
      setTimeout(fill, 2000);
      return;
    }
    fetchError = null;
    setCounts(reply.counts);
    showState();
    if (!reply.item) {
      if (queue.length || !outbox.entries.length || !(await outboxEmptied())) break;
      continue; // the answers just sent may have opened another item
    }
    if (!queue.some((entry) => entry.view.id === reply.item.id)) queue.push(buildCard(reply.item));
    await Promise.race([queue.at(-1).decoded, wait(PICTURE_WAIT)]); // then it can be shown without the network
    stage.dataset.queue = queue.length;
    if (!open && !leaving) await showItem();
  }
  if (!queue.length && !leaving) showEnd();
}

async function outboxEmptied() {
  try {
    await within(outbox.flush(), OUTBOX_WAIT);
    return true;
  } catch {
    return false;
  }
}

async function showItem() {
  const entry = queue[0];
  if (!entry) return fill();
  await Promise.race([entry.decoded, wait(PICTURE_WAIT)]);
  if (entry !== queue[0]) return;
  showCard(entry.card);
  open = true;
  shownAt = performance.now();
  hiddenMilliseconds = 0;
  enable("skip", "tie");
  setReady(false);
  entry.card.querySelector(".prompt").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  element("announce").textContent = `${entry.view.prompt} ${entry.view.responses.length} responses`;
}

function showEnd() {
  open = false;
  const card = copyTemplate("end-template");
  const waiting = counts && counts.left > outbox.items().length;
  const [heading, text] = waiting ? waitingText() : endText();
  card.querySelector("h1").textContent = heading;
  card.querySelector(".lead").textContent = text;
  clearTimeout(fetchAgain);
  fetchAgain = setTimeout(() => queue.length || fill(), 15000);
  if (shownCard?.textContent === card.textContent) return;
  showCard(card);
  disable("skip", "tie", "done");
  card.querySelector("h1").focus({ preventScroll: true });
}

function waitingText() {
  const items = counts.left === 1 ? "One item is" : `${counts.left} items are`;
  return ["Others hold the last items", `${items} with other people now. Items that come back will appear here.`];
}

function endText() {
  const { judged, skipped } = counts ?? { judged: 0, skipped: 0 };
  const heading = judged + skipped ? "All done. Thank you!" : "Nothing to label";
  const skips = skipped ? ` and skipped ${skipped}` : "";
  return [heading, `You have judged ${judged} ${judged === 1 ? "item" : "items"}${skips}.`];
}

function showCard(card) {
  shownCard?.remove();
  shownCard = card;
  if (card) stage.append(card);
  stage.setAttribute("aria-busy", String(!card));
}

// ---- answers

function answer(entry, judgement) {
  if (!open || entry !== queue[0]) return;
  open = false;
  const seconds = Math.max(0, (performance.now() - shownAt - hiddenMilliseconds) / 1000);
  if (!judgement.skipped) paces = [...paces, Math.min(seconds, LONGEST_PACE)].slice(-20);
  for (const player of [entry.prompt, ...entry.spoken]) player?.pause();
  queue.shift();
  stage.dataset.queue = queue.length;
  answered.set(entry.view.id, entry.view);
  outbox.add({ item: entry.view.id, key: newKey(), seconds: Math.round(seconds * 100) / 100, ...judgement });
  showProgress();
  if (answered.size % 10 === 0) fetchStanding();
  leaving = true;
  stage.classList.add("leaving");
  fill();
  setTimeout(showNext, modes.reducedMotion() ? 60 : LINGER);
}

// The answer was shown for a moment: show the next item, or wait for it.
function showNext() {
  leaving = false;
  stage.classList.remove("leaving");
  if (queue.length) return showItem();
  showCard(null);
  disable("skip", "tie", "done");
  fill().then(() => shownCard || queue.length || fetchError || showEnd());
}

function skip() {
  if (open) answer(queue[0], { skipped: true });
}

function tie() {
  if (!open || mode === "score") return;
  queue[0].judge.tied();
  answer(queue[0], { choice: "tie" });
}

async function undo() {
  if (undoing) return;
  undoing = true;
  disable("undo");
  try {
    await undoLast();
  } catch (error) {
    const away = "Undo needs the server, which does not answer. Try again later.";
    showNotice(error instanceof Refused ? error.message : away, "warn", 5000);
  } finally {
    undoing = false;
    enable("undo");
  }
}

async function undoLast() {
  let view = answered.get(outbox.withdraw()?.item);
  if (!view) {
    if (outbox.entries.length) {
      outbox.retryNow();
      await within(outbox.flush(), OUTBOX_WAIT);
    }
    const reply = await post("/api/undo", { annotator });
    setCounts(reply.counts);
    view = reply.item;
  }
  if (!view) return showNotice("There is nothing to undo.", "", 2500);
  queue = [buildCard(view), ...queue.filter((entry) => entry.view.id !== view.id)];
  await showItem();
  showProgress();
  showNotice("Undone. Please judge it again.", "", 2500);
}

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function within(promise, milliseconds) {
  return Promise.race([promise, wait(milliseconds).then(() => Promise.reject(new Error("too late")))]);
}

// ---- progress, notices and buttons

// Replies may arrive out of order: the number of changes grows with time.
function setCounts(latest) {
  if (!counts || latest.changes >= counts.changes) counts = latest;
  showProgress();
}

function showProgress() {
  if (!counts) return;
  const unsent = outbox.items().length;
  const done = counts.judged + counts.skipped + unsent;
  const left = Math.max(0, counts.left - unsent);
  element("progress").max = Math.max(1, done + left);
  element("progress").value = done;
  element("count").textContent = `${done} of ${done + left}`;
  const pace = paces.length >= 3 ? [...paces].sort((a, b) => a - b)[Math.floor(paces.length / 2)] : serverPace;
  element("left").textContent = left && pace ? timeLeft(left * (pace + 0.4)) : "";
}

function timeLeft(seconds) {
  if (seconds < 60) return "less than a minute left";
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${Math.round(minutes / 30) / 2} hours left`;
}

async function fetchStanding() {
  try {
    const response = await fetch("/api/standing");
    if (!response.ok) return;
    const { pace, self_agreement, repeats, alpha, same } = await response.json();
    serverPace = pace;
    showProgress();
    const agreed = self_agreement === null ? "" : `${percent(self_agreement)} as the first time (${repeats} repeated)`;
    element("self").textContent = agreed;
    if (alpha !== null) element("others").textContent = `α ${alpha.toFixed(2)} with others`;
    else element("others").textContent = same === null ? "" : `${percent(same)} as others`;
  } catch {
    element("self").textContent = ""; // the server is away: the notice says so
  }
}

const percent = (share) => `${Math.round(100 * share)}%`;

let noticeTimer = 0;
let noticeUntil = 0; // a timed notice stays that long, unless there is trouble
function showNotice(text, kind = "", milliseconds = 0, link = null) {
  const notice = element("notice");
  clearTimeout(noticeTimer);
  notice.className = `notice ${kind}`;
  notice.textContent = text;
  if (link) {
    const anchor = document.createElement("a");
    [anchor.href, anchor.textContent] = link;
    notice.append(" ", anchor);
  }
  notice.hidden = !text;
  noticeUntil = milliseconds ? performance.now() + milliseconds - 50 : 0;
  if (milliseconds) noticeTimer = setTimeout(showState, milliseconds);
}

// Say whether answers reach the server.
let hadTrouble = false;
function showState() {
  const trouble = outbox?.trouble ?? fetchError;
  const n = outbox?.entries.length ?? 0;
  const place = outbox?.durable ? "in this browser" : "in this page: leave it open";
  const kept = n ? `${n === 1 ? "One answer is" : `${n} answers are`} kept ${place} and will be sent.` : "";
  if (trouble instanceof SignedOut) {
    showNotice(`The server wants you to sign in again. ${kept}`, "warn", 0, ["/login", "Sign in"]);
  } else if (trouble instanceof Renamed) {
    showNotice(`${trouble.message}. ${kept}`, "warn", 0, ["/label", "Load again"]);
  } else if (trouble instanceof Refused) {
    showNotice(trouble.message, "warn");
  } else if (trouble) {
    showNotice(`The server does not answer. ${kept || "You can go on when it is back."}`, "warn");
  } else if (hadTrouble && n) {
    return; // the server is back, and the answers are being sent
  } else if (hadTrouble) {
    showNotice("The server is back, and has all your answers.", "good", 3000);
  } else if (outbox?.refused.length) {
    const { item, reason } = outbox.refused.at(-1);
    showNotice(`The answer to item ${item} was refused: ${reason}`, "warn");
  } else if (performance.now() >= noticeUntil) {
    showNotice("");
  }
  hadTrouble = Boolean(trouble);
}

function setDisabled(disabled, names) {
  for (const name of names) if (buttons[name]) buttons[name].disabled = disabled;
}

const enable = (...names) => setDisabled(false, names);
const disable = (...names) => setDisabled(true, names);
const setReady = (ready) => setDisabled(!ready, ["done"]);

// ---- events

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  const entry = queue[0];
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1] ?? (/^[1-9]$/.test(event.key) ? event.key : null);
  if (digit && event.shiftKey) return entry?.spoken[digit - 1]?.toggle();
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  const action = { t: tie, s: skip, u: undo, p: () => entry?.prompt?.toggle(), "?": showKeys }[event.key.toLowerCase()];
  if (action) return event.preventDefault(), action();
  if (!open || !entry) return;
  if (digit) return event.preventDefault(), entry.judge.number(Number(digit));
  if (event.key === "Enter" && event.target.closest?.("button, a")) return; // it presses the button in focus
  if (event.defaultPrevented) return;
  if (entry.judge.key(event.key)) event.preventDefault();
});

function showKeys() {
  element("keys").showModal();
}

buttons.undo.addEventListener("click", undo);
buttons.skip.addEventListener("click", skip);
buttons.tie?.addEventListener("click", tie);
buttons.done?.addEventListener("click", () => open && queue[0].judge.done());
element("help").addEventListener("click", showKeys);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenAt = performance.now();
  else if (hiddenAt) hiddenMilliseconds += performance.now() - Math.max(hiddenAt, shownAt);
});
addEventListener("online", () => {
  queue.forEach((entry) => entry.reload?.());
  fill();
});
addEventListener("beforeunload", (event) => {
  if (outbox.entries.length && !outbox.durable) event.preventDefault();
});

outbox.flush();
fill();
fetchStanding();
