// The three ways of judging: choose one, put all in order, or give points. Each turns a card into an answer.

const ORDINALS = ["1st", "2nd", "3rd", "4th"];
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// Choose one. answer({choice}, faces) is called at once.
export function compare(card, answer) {
  const items = [...card.querySelectorAll(".response")];
  const choose = (place) => {
    if (!items[place]) return;
    items.forEach((item, i) => item.classList.add(i === place ? "chosen" : "passed"));
    answer({ choice: place });
  };
  items.forEach((item, place) => item.querySelector(".face").addEventListener("click", () => choose(place)));
  return { number: (n) => choose(n - 1), key: () => false, tied: () => items.forEach((i) => i.classList.add("chosen")) };
}

// Put all in order: by dragging, with the arrow keys, or by pressing numbers from the best to the worst.
export function rank(card, answer, ready) {
  const list = card.querySelector(".responses");
  const items = [...list.children];
  const said = new Set(); // numbers that were pressed so far
  let touched = false;
  const places = () => [...list.children].map((item) => items.indexOf(item));
  const number = () => {
    [...list.children].forEach((item, at) => {
      const settled = touched && (!said.size || at < said.size || said.size >= items.length - 1);
      item.querySelector(".place").textContent = settled ? (ORDINALS[at] ?? `${at + 1}th`) : "";
      item.querySelector(".face").setAttribute("aria-label", `${item.querySelector(".text").textContent}, place ${at + 1}`);
    });
    ready(touched && (!said.size || said.size >= items.length - 1));
  };
  const move = (item, to) => {
    glide(list, () => pass(list, item, to));
    touched = true;
    number();
  };
  const press = (n) => {
    const item = items[n - 1];
    if (!item || said.has(n)) return;
    move(item, said.size);
    said.add(n);
    number();
  };
  const clear = () => {
    said.clear();
    touched = false;
    glide(list, () => list.append(...items));
    number();
  };
  const free = () => said.clear(); // moved by hand: from now on the order on the screen is meant
  items.forEach((item, i) => {
    drag(list, item, (to) => (free(), move(item, to)), () => press(i + 1));
    item.querySelector(".face").addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      free();
      const to = [...list.children].indexOf(item) + step;
      if (to >= 0 && to < items.length) move(item, to);
    });
  });
  const done = () => touched && (!said.size || said.size >= items.length - 1) && answer({ ranking: places() });
  number();
  return {
    number: press,
    key: (key) => (key === "Enter" ? (done(), true) : key === "Backspace" ? (clear(), true) : false),
    done,
    tied: () => items.forEach((item) => item.classList.add("chosen")),
  };
}

// Follow the pointer; place(to) wherever the response passes another, tap() where it only touched.
function drag(list, item, place, tap) {
  const face = item.querySelector(".face");
  let dragged = false;
  face.addEventListener("click", () => dragged || tap());
  face.addEventListener("pointerdown", (down) => {
    dragged = false;
    // A finger on the text scrolls the page: it drags by the grip.
    if (down.button !== 0 || (down.pointerType !== "mouse" && !down.target.closest(".grip"))) return;
    let from = down.clientY;
    face.setPointerCapture(down.pointerId);
    const follow = (event) => {
      if (!item.classList.contains("held") && Math.abs(event.clientY - from) < 4) return;
      item.classList.add("held");
      dragged = true;
      item.style.translate = `0 ${event.clientY - from}px`;
      const others = [...list.children].filter((other) => other !== item);
      const middle = item.getBoundingClientRect();
      const to = others.filter((o) => centre(o.getBoundingClientRect()) < centre(middle)).length;
      if (to === [...list.children].indexOf(item)) return;
      const before = item.getBoundingClientRect().top;
      place(to);
      item.style.translate = "0 0";
      from = event.clientY - (before - item.getBoundingClientRect().top);
      item.style.translate = `0 ${event.clientY - from}px`;
    };
    const drop = () => {
      face.removeEventListener("pointermove", follow);
      if (item.classList.contains("held")) {
        if (!still()) item.animate([{ translate: item.style.translate }, { translate: "0 0" }], { duration: 140, easing: "ease-out" });
        item.style.translate = "";
        item.classList.remove("held");
        face.focus({ preventScroll: true });
      }
    };
    face.addEventListener("pointermove", follow);
    face.addEventListener("lostpointercapture", drop, { once: true });
  });
}

// Bring an item to a place by moving the others: one that is taken out loses the pointer and the focus.
function pass(list, item, to) {
  const all = [...list.children];
  const from = all.indexOf(item);
  if (to > from) all.slice(from + 1, to + 1).forEach((other) => list.insertBefore(other, item));
  else all.slice(to, from).reverse().forEach((other) => item.after(other));
}

const centre = (box) => box.top + box.height / 2;

// Change the order, and let the others glide from where they were.
function glide(list, change) {
  const before = new Map([...list.children].map((item) => [item, item.offsetTop]));
  change();
  if (still()) return;
  for (const [item, top] of before) {
    const shift = top - item.offsetTop;
    if (shift && !item.classList.contains("held")) {
      item.animate([{ transform: `translateY(${shift}px)` }, { transform: "none" }], { duration: 160, easing: "ease-out" });
    }
  }
}

// Points from 1 to 5 for each.
export function score(card, answer, ready) {
  const items = [...card.querySelectorAll(".response")];
  let at = 0;
  const points = () => items.map((item) => Number(item.querySelector("input:checked")?.value ?? 0));
  const mark = (to) => {
    at = Math.max(0, Math.min(items.length - 1, to));
    items.forEach((item, i) => item.classList.toggle("current", i === at));
  };
  const check = () => ready(points().every(Boolean));
  items.forEach((item, i) => {
    for (const input of item.querySelectorAll("input")) {
      input.name = `points-${card.dataset.item}-${i}`;
      input.addEventListener("change", () => (mark(i), check()));
    }
  });
  const give = (n) => {
    const input = items[at].querySelector(`input[value="${n}"]`);
    if (!input) return;
    input.checked = true;
    const open = points().indexOf(0, at + 1);
    mark(open >= 0 ? open : Math.max(points().indexOf(0), at));
    check();
  };
  const done = () => points().every(Boolean) && answer({ scores: points() });
  mark(0);
  return {
    number: give,
    key: (key) => {
      if (key === "Enter") done();
      else if (key === "ArrowUp" || key === "ArrowDown") mark(at + (key === "ArrowUp" ? -1 : 1));
      else return false;
      return true;
    },
    done,
    tied: () => {},
  };
}
