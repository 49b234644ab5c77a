// The three modes: compare (choose one), rank (order all) and score (points for each).
//
// Each function adds a mode to an item's card and returns what keys and buttons need: number(n) and key(name) for keys
// that were pressed, done() for the button, and tied() to show a tie. It calls answer({choice | ranking | scores}) with
// places on the screen, and ready(whether the answer is complete).

const ORDINALS = ["1st", "2nd", "3rd", "4th"];
const LEAST_DRAG = 4; // pixels; a shorter movement is a tap
export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const responsesOf = (card) => [...card.querySelectorAll(".response")];
const markAllChosen = (items) => items.forEach((item) => item.classList.add("chosen"));

// Choose one: a number or a click is the answer.
export function compare(card, answer) {
  const items = responsesOf(card);
  const choose = (place) => {
    if (!items[place]) return;
    items.forEach((item, i) => item.classList.add(i === place ? "chosen" : "passed"));
    answer({ choice: place });
  };
  items.forEach((item, place) => item.querySelector(".face").addEventListener("click", () => choose(place)));
  return { number: (n) => choose(n - 1), key: () => false, done: () => {}, tied: () => markAllChosen(items) };
}

// Order all: by dragging, with the arrow keys, or by pressing numbers from the best to the worst.
export function rank(card, answer, ready) {
  const list = card.querySelector(".responses");
  const items = responsesOf(card);
  const pressed = new Set(); // numbers pressed so far; empty again once the order is changed by hand
  let changed = false;
  const complete = () => changed && (!pressed.size || pressed.size >= items.length - 1);
  const update = () => {
    responsesOf(card).forEach((item, place) => {
      const ranked = complete() || (changed && place < pressed.size);
      item.querySelector(".place").textContent = ranked ? (ORDINALS[place] ?? `${place + 1}th`) : "";
      const text = item.querySelector(".text").textContent;
      item.querySelector(".face").setAttribute("aria-label", `${text}, place ${place + 1}`);
    });
    ready(complete());
  };
  const move = (item, to) => {
    animate(list, () => moveTo(list, item, to));
    changed = true;
    update();
  };
  const moveByHand = (item, to) => {
    pressed.clear();
    move(item, to);
  };
  const press = (n) => {
    const item = items[n - 1];
    if (!item || pressed.has(n)) return;
    move(item, pressed.size);
    pressed.add(n);
    update();
  };
  const reset = () => {
    pressed.clear();
    changed = false;
    animate(list, () => list.append(...items));
    update();
  };
  const done = () => complete() && answer({ ranking: responsesOf(card).map((item) => items.indexOf(item)) });
  items.forEach((item, i) => {
    makeDraggable(list, item, (to) => moveByHand(item, to), () => press(i + 1));
    item.querySelector(".face").addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const to = [...list.children].indexOf(item) + step;
      if (to >= 0 && to < items.length) moveByHand(item, to);
    });
  });
  update();
  const key = (name) => {
    if (name === "Enter") done();
    else if (name === "Backspace") reset();
    else return false;
    return true;
  };
  return { number: press, key, done, tied: () => markAllChosen(items) };
}

// Let the pointer drag a response: place(to) when it passes another one, tap() if it was not moved.
function makeDraggable(list, item, place, tap) {
  const face = item.querySelector(".face");
  let dragged = false;
  face.addEventListener("click", () => dragged || tap());
  face.addEventListener("pointerdown", (down) => {
    dragged = false;
    // A finger on the text scrolls the page: it drags by the grip.
    if (down.button !== 0 || (down.pointerType !== "mouse" && !down.target.closest(".grip"))) return;
    let start = down.clientY;
    face.setPointerCapture(down.pointerId);
    const follow = (event) => {
      if (!dragged && Math.abs(event.clientY - start) < LEAST_DRAG) return;
      dragged = true;
      item.classList.add("held");
      item.style.translate = `0 ${event.clientY - start}px`;
      const middle = middleOf(item);
      const to = [...list.children].filter((other) => other !== item && middleOf(other) < middle).length;
      if (to === [...list.children].indexOf(item)) return;
      const before = item.getBoundingClientRect().top;
      place(to);
      item.style.translate = "0 0";
      start = event.clientY - (before - item.getBoundingClientRect().top);
      item.style.translate = `0 ${event.clientY - start}px`;
    };
    const drop = () => {
      face.removeEventListener("pointermove", follow);
      if (!dragged) return;
      const frames = [{ translate: item.style.translate }, { translate: "0 0" }];
      if (!reducedMotion()) item.animate(frames, { duration: 140, easing: "ease-out" });
      item.style.translate = "";
      item.classList.remove("held");
      face.focus({ preventScroll: true });
    };
    face.addEventListener("pointermove", follow);
    face.addEventListener("lostpointercapture", drop, { once: true });
  });
}

function middleOf(item) {
  const box = item.getBoundingClientRect();
  return box.top + box.height / 2;
}

// Move an item by moving the others: an item that is taken out of the page loses the pointer and the focus.
function moveTo(list, item, to) {
  const all = [...list.children];
  const from = all.indexOf(item);
  if (to > from) all.slice(from + 1, to + 1).forEach((other) => list.insertBefore(other, item));
  else all.slice(to, from).reverse().forEach((other) => item.after(other));
}

// Change the order, and animate each item from its old place.
function animate(list, change) {
  const before = new Map([...list.children].map((item) => [item, item.offsetTop]));
  change();
  if (reducedMotion()) return;
  for (const [item, top] of before) {
    const shift = top - item.offsetTop;
    if (!shift || item.classList.contains("held")) continue;
    const frames = [{ transform: `translateY(${shift}px)` }, { transform: "none" }];
    item.animate(frames, { duration: 160, easing: "ease-out" });
  }
}

// Points from 1 to 5 for each; one response is the current one, which number keys score.
export function score(card, answer, ready) {
  const items = responsesOf(card);
  let current = 0;
  const points = () => items.map((item) => Number(item.querySelector("input:checked")?.value ?? 0));
  const complete = () => points().every(Boolean);
  const select = (to) => {
    current = Math.max(0, Math.min(items.length - 1, to));
    items.forEach((item, i) => item.classList.toggle("current", i === current));
  };
  items.forEach((item, i) => {
    for (const input of item.querySelectorAll("input")) {
      input.name = `points-${card.dataset.item}-${i}`;
      input.addEventListener("change", () => (select(i), ready(complete())));
    }
  });
  const number = (n) => {
    const input = items[current].querySelector(`input[value="${n}"]`);
    if (!input) return;
    input.checked = true;
    const next = points().indexOf(0, current + 1);
    select(next >= 0 ? next : Math.max(points().indexOf(0), current));
    ready(complete());
  };
  const done = () => complete() && answer({ scores: points() });
  const key = (name) => {
    if (name === "Enter") done();
    else if (name === "ArrowUp" || name === "ArrowDown") select(current + (name === "ArrowUp" ? -1 : 1));
    else return false;
    return true;
  };
  select(0);
  return { number, key, done, tied: () => {} };
}
