// The screen: one item after another, the next ones fetched before they are needed, and no answer ever lost.

import { Outbox, Refused, Renamed, SignedOut, newKey, post } from "./outbox.js";
import { copy, player } from "./player.js";
import * as ways from "./judging.js";

const AHEAD = 4; // items in hand, the one on the screen included
const LINGER = 190; // milliseconds that an answer is seen before the next item comes
const IDLE = 120; // seconds after which a glance counts as a pause
const element = (id) => document.getElementById(id);
const stage = element("stage");
const { mode, annotator, store } = stage.dataset;
const buttons = Object.fromEntries(["undo", "skip", "tie", "done"].map((id) => [id, element(id)]));

let hand = []; // {view, card, judge}: the first is on the screen
const recent = new Map(); // id -> view of what was answered here, to take it back without the server
let counts = null;
let open = false; // whether an answer would be taken now
let shown = null; // the card on the screen
let began = 0;
let leaving = false; // between an answer and the next item
let away = 0; // milliseconds in which the page could not be seen
let hiddenAt = 0;
let answered = 0;
let paces = [];
let filling = null;
let asking = 0; // the timer that asks again at the end
let fetchFailed = false;

const outbox = new Outbox(store, annotator, tell, (reply) => {
  learn(reply.counts);
});

// ---- items

function build(view) {
  const card = copy("item-template");
  const entry = { view, card };
  card.dataset.item = view.id;
  card.querySelector(".prompt").textContent = view.prompt || (view.audio ? "Listen to what was said." : "No prompt.");
  card.classList.toggle("spoken", Boolean(view.audio));
  if (view.image) picture(card, view.image, entry);
  if (view.audio) {
    entry.said = player(view.audio, "what was said");
    card.querySelector(".media").append(entry.said);
  }
  if (!view.image && !view.audio) card.classList.add("bare");
  entry.spoken = view.responses.map((response, place) => addResponse(card, response, place));
  if (view.audio) sounds("prompt");
  if (entry.spoken.some(Boolean)) sounds("responses");
  entry.judge = ways[mode](card, (said) => answer(entry, said), (ready) => entry === hand[0] && allow(ready));
  return entry;
}

// The list of keys names those of sounds once there is one.
function sounds(kind) {
  document.querySelector(`#keys [data-sound=${kind}]`).hidden = false;
}

function picture(card, url, entry) {
  const figure = card.querySelector(".picture");
  const image = figure.querySelector("img");
  figure.hidden = false;
  image.addEventListener("error", () => figure.classList.add("missing"));
  image.addEventListener("load", () => {
    figure.classList.remove("missing");
    figure.classList.toggle("pixels", image.naturalWidth <= 256);
  });
  image.src = url;
  entry.seen = image.decode().catch(() => {});
  entry.again = () => figure.classList.contains("missing") && (image.src = url);
}

function addResponse(card, response, place) {
  const item = copy("response-template");
  item.querySelector("kbd").textContent = place + 1;
  const text = item.querySelector(".text");
  text.textContent = response.text.trim() ? response.text : "(silence)";
  text.classList.toggle("silence", !response.text.trim());
  card.querySelector(".responses").append(item);
  if (!response.audio) return null;
  const sound = player(response.audio, `response ${place + 1}`);
  item.append(sound);
  return sound;
}

// Fetch until enough are in hand. What waits in the outbox is still ours at the server, and is not asked for again.
function fill() {
  filling ??= fetchMore().finally(() => (filling = null));
  return filling;
}

async function fetchMore() {
  while (hand.length < AHEAD) {
    let reply;
    try {
      const ids = [...hand.map((entry) => entry.view.id), ...outbox.itemsOf(annotator)];
      reply = await post("/api/next", { annotator, hand: [...new Set(ids)].slice(0, 64) });
    } catch (error) {
      fetchFailed = error;
      tell();
      setTimeout(fill, 2000);
      return;
    }
    fetchFailed = false;
    learn(reply.counts);
    tell();
    if (!reply.item) {
      if (hand.length || !outbox.entries.length || !(await arrived())) break;
      continue; // what was on its way counts now: ask again
    }
    if (!hand.some((entry) => entry.view.id === reply.item.id)) hand.push(build(reply.item));
    await Promise.race([hand.at(-1).seen, pause(800)]); // a picture that is here already needs no network later
    stage.dataset.hand = hand.length;
    if (!open && !leaving) await show();
  }
  if (!hand.length && !leaving) end();
}

// Whether everything has been sent within a moment.
async function arrived() {
  try {
    await within(outbox.flush(), 3000);
    return true;
  } catch {
    return false;
  }
}

async function show() {
  const entry = hand[0];
  if (!entry) return fill();
  await Promise.race([entry.seen, pause(800)]);
  if (entry !== hand[0]) return;
  shown?.remove();
  shown = entry.card;
  stage.append(shown);
  stage.setAttribute("aria-busy", "false");
  open = true;
  began = performance.now();
  away = 0;
  for (const name of ["skip", "tie"]) if (buttons[name]) buttons[name].disabled = false;
  allow(false);
  entry.card.querySelector(".prompt").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  element("announce").textContent = `${entry.view.prompt} ${entry.view.responses.length} responses`;
}

function end() {
  open = false;
  const card = copy("end-template");
  const waiting = counts && counts.left > outbox.itemsOf(annotator).length;
  const total = counts ? counts.judged + counts.skipped : 0;
  card.querySelector("h1").textContent = waiting ? "Others hold the last items" : total ? "All done. Thank you!" : "Nothing to label";
  card.querySelector(".lead").textContent = waiting
    ? `${counts.left === 1 ? "One item is" : `${counts.left} items are`} with other people now. Should one come back, it will appear here.`
    : `You have judged ${counts?.judged ?? 0} ${counts?.judged === 1 ? "item" : "items"}${counts?.skipped ? ` and skipped ${counts.skipped}` : ""}.`;
  clearTimeout(asking);
  asking = setTimeout(() => hand.length || fill(), 15000);
  if (shown?.textContent === card.textContent) return;
  shown?.remove();
  shown = card;
  stage.append(card);
  stage.setAttribute("aria-busy", "false");
  for (const name of ["skip", "tie", "done"]) if (buttons[name]) buttons[name].disabled = true;
  card.querySelector("h1").focus({ preventScroll: true });
}

// ---- answers

function answer(entry, said) {
  if (!open || entry !== hand[0]) return;
  open = false;
  const seconds = Math.max(0, (performance.now() - began - away) / 1000);
  if (!said.skipped) paces = [...paces, Math.min(seconds, IDLE)].slice(-20);
  entry.said?.hush();
  entry.spoken.forEach((sound) => sound?.hush());
  hand.shift();
  stage.dataset.hand = hand.length;
  recent.set(entry.view.id, entry.view);
  outbox.add({ annotator, item: entry.view.id, key: newKey(), seconds: Math.round(seconds * 100) / 100, ...said });
  progress();
  if (++answered % 10 === 0) standing();
  leaving = true;
  stage.classList.add("leaving");
  fill();
  setTimeout(turn, matchMedia("(prefers-reduced-motion: reduce)").matches ? 60 : LINGER);
}

// The answer has been seen: on to the next item, or wait for it.
function turn() {
  leaving = false;
  stage.classList.remove("leaving");
  if (hand.length) return show();
  wait();
}

// The next item is not here yet.
function wait() {
  shown?.remove();
  shown = null;
  stage.setAttribute("aria-busy", "true");
  for (const button of Object.values(buttons)) if (button && button !== buttons.undo) button.disabled = true;
  fill().then(() => shown || hand.length || fetchFailed || end());
}

function skip() {
  if (open) answer(hand[0], { skipped: true });
}

function tie() {
  if (!open || mode === "score") return;
  hand[0].judge.tied();
  answer(hand[0], { choice: "tie" });
}

let undoing = false;
async function undo() {
  if (undoing) return;
  undoing = true;
  buttons.undo.disabled = true;
  try {
    await takeBack();
  } catch (error) {
    say(error instanceof Refused ? error.message : "Undo needs the server, which does not answer. Try again later.", "warn", 5000);
  } finally {
    undoing = false;
    buttons.undo.disabled = false;
  }
}

async function takeBack() {
  const body = outbox.withdraw(annotator);
  let view = body && recent.get(body.item);
  if (!view) {
    if (outbox.entries.length) {
      outbox.hurry();
      await within(outbox.flush(), 3000);
    }
    const reply = await post("/api/undo", { annotator });
    learn(reply.counts);
    view = reply.item;
  }
  if (!view) return say("There is nothing to undo.", "", 2500);
  hand = [build(view), ...hand.filter((entry) => entry.view.id !== view.id)];
  await show();
  progress();
  say("Taken back. Say it again.", "", 2500);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function within(promise, milliseconds) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("late")), milliseconds));
  return Promise.race([promise, late]);
}

// ---- what is said around the item

// Replies may overtake each other: the number of changes says which is the later one.
function learn(fresh) {
  if (!counts || fresh.changes >= counts.changes) counts = fresh;
  progress();
}

function progress() {
  if (!counts) return;
  const pending = outbox.itemsOf(annotator).length;
  const done = counts.judged + counts.skipped + pending;
  const left = Math.max(0, counts.left - pending);
  element("progress").max = Math.max(1, done + left);
  element("progress").value = done;
  element("count").textContent = `${done} of ${done + left}`;
  const pace = paces.length >= 3 ? [...paces].sort((a, b) => a - b)[Math.floor(paces.length / 2)] : progress.pace;
  element("left").textContent = !left || !pace ? "" : remaining(left * (pace + 0.4));
}

function remaining(seconds) {
  if (seconds < 60) return "less than a minute left";
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${Math.round(minutes / 30) / 2} hours left`;
}

async function standing() {
  try {
    const response = await fetch("/api/standing");
    if (!response.ok) return;
    const { pace, own, repeats, alpha, same } = await response.json();
    progress.pace = pace;
    progress();
    element("own").textContent = own === null ? "" : `${Math.round(100 * own)}% the same again (${repeats})`;
    element("others").textContent = alpha !== null ? `α ${alpha.toFixed(2)} with others` : same !== null ? `${Math.round(100 * same)}% the same as others` : "";
  } catch {
    element("own").textContent = ""; // away: the notice says so already
  }
}

let spell = 0;
let until = 0; // a notice that is said for a while stays as long, unless something worse comes
function say(text, kind = "", milliseconds = 0, link = null) {
  const notice = element("notice");
  clearTimeout(spell);
  notice.className = `notice ${kind}`;
  notice.textContent = text;
  if (link) {
    const way = document.createElement("a");
    [way.href, way.textContent] = link;
    notice.append(" ", way);
  }
  notice.hidden = !text;
  until = milliseconds ? performance.now() + milliseconds - 50 : 0;
  if (milliseconds) spell = setTimeout(tell, milliseconds);
}

let hadTrouble = false;
function tell() {
  const trouble = outbox?.trouble ?? fetchFailed;
  const n = outbox?.entries.length ?? 0;
  const kept = n ? `${n === 1 ? "One answer is" : `${n} answers are`} kept ${outbox.durable ? "in this browser" : "in this page: leave it open"} and will be sent.` : "You can go on when it is back.";
  if (trouble instanceof SignedOut) {
    say(`The server wants you to sign in again. ${n ? kept : ""}`, "warn", 0, ["/login", "Sign in"]);
  } else if (trouble instanceof Renamed) {
    say(`${trouble.message}. ${n ? kept : ""}`, "warn", 0, ["/label", "Load again"]);
  } else if (trouble instanceof Refused) {
    say(trouble.message, "warn");
  } else if (trouble) {
    say(`The server does not answer. ${kept}`, "warn");
  } else if (hadTrouble && n) {
    return; // it is back, and what waits is on its way
  } else if (hadTrouble) {
    say("The server is back, and has all your answers.", "good", 3000);
  } else if (outbox?.refused.length) {
    const { body, reason } = outbox.refused.at(-1);
    say(`The answer to item ${body.item} was refused: ${reason}`, "warn");
  } else if (performance.now() >= until) {
    say("");
  }
  hadTrouble = Boolean(trouble);
}

function allow(ready) {
  if (buttons.done) buttons.done.disabled = !ready;
}

// ---- keys and buttons

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1] ?? (/^[1-9]$/.test(event.key) ? event.key : null);
  if (digit && event.shiftKey) return hand[0]?.spoken[digit - 1]?.toggle();
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  const entry = hand[0];
  const letter = { t: tie, s: skip, u: undo, p: () => entry?.said?.toggle(), "?": help }[event.key.toLowerCase()];
  if (letter) return event.preventDefault(), letter();
  if (!open || !entry) return;
  if (digit) return event.preventDefault(), entry.judge.number(Number(digit));
  if (event.key === "Enter" && event.target.closest?.("button, a")) return; // the button in focus is meant
  if (event.defaultPrevented) return;
  if (entry.judge.key(event.key)) event.preventDefault();
});

function help() {
  element("keys").showModal();
}

buttons.undo.addEventListener("click", undo);
buttons.skip.addEventListener("click", skip);
buttons.tie?.addEventListener("click", tie);
buttons.done?.addEventListener("click", () => open && hand[0].judge.done());
element("help").addEventListener("click", help);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenAt = performance.now();
  else if (hiddenAt) away += performance.now() - Math.max(hiddenAt, began);
});
addEventListener("online", () => {
  hand.forEach((entry) => entry.again?.());
  fill();
});
addEventListener("beforeunload", (event) => {
  if (outbox.entries.length && !outbox.durable) event.preventDefault();
});

outbox.flush();
fill();
standing();
