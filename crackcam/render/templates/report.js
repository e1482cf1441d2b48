// Method, opacity, sorting, filters, the enlarged view.

const large = one("#large");

// -- controls

function setOpacity(percent) {
  root.style.setProperty("--opacity", percent / 100);
  for (const range of all("input[type=range]")) {
    range.value = percent;
    one("output", range.parentElement).textContent = `${percent} %`;
  }
}

function chosen(name) {
  const field = controls?.elements[name];
  return field ? field.value : "";
}

const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true });
const confidence = (card) => Number(card.dataset.confidence);
const orders = {
  given: (a, b) => a.dataset.number - b.dataset.number,
  incorrect: (a, b) => b.dataset.incorrect - a.dataset.incorrect || confidence(a) - confidence(b),
  descending: (a, b) => confidence(b) - confidence(a),
  ascending: (a, b) => confidence(a) - confidence(b),
  name: byName,
};

function order(wish) {
  if (!wish.startsWith("number ")) return orders[wish];
  const name = wish.slice(7);
  const method = one(".legend:not([hidden])")?.dataset.method;
  const value = ({ own, maps }) => own[name] ?? maps[method]?.[name] ?? -Infinity;
  const values = new Map(cards.map((card) => [card, value(JSON.parse(card.dataset.numbers))]));
  return (a, b) => (values.get(a) === values.get(b) ? 0 : values.get(b) - values.get(a));
}

function showMethod() {
  const method = chosen("method");
  for (const part of all(".card [data-method], .legend")) part.hidden = part.dataset.method !== method;
}

function sort() {
  const grid = one(".grid");
  const compare = order(chosen("sort") || "given");
  grid.append(...cards.sort((a, b) => compare(a, b) || byName(a, b)));
}

function filter() {
  const name = chosen("class").slice(1);
  const result = chosen("result");
  for (const card of cards) {
    const { incorrect, true: truth, predicted } = card.dataset;
    card.hidden = (name !== "" && name !== truth && name !== predicted) || (result !== "" && result !== incorrect);
  }
  const count = cards.filter((card) => !card.hidden).length;
  one("#count").textContent = `${count.toLocaleString("en")} shown`;
  one("#none").hidden = count > 0;
}

if (controls) {
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", ({ target }) => {
    if (target.name === "opacity") setOpacity(target.value);
    if (target.name === "outline") root.classList.toggle("bare", !target.checked);
    if (target.name === "method") showMethod();
    if (target.name === "sort" || (target.name === "method" && chosen("sort").startsWith("number "))) sort();
    if (target.name === "class" || target.name === "result") filter();
  });
}

// -- the enlarged view: the image, and every method beside it

let current = null;

function figure(photo, layers, name, notes = []) {
  const made = document.createElement("figure");
  const stack = document.createElement("div");
  stack.className = "stage";
  for (const image of [photo, ...layers]) {
    const copy = image.cloneNode();
    copy.hidden = false;
    copy.loading = "eager";
    stack.append(copy);
  }
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  made.append(stack, caption);
  for (const note of notes) {
    const copy = note.cloneNode(true);
    copy.hidden = false;
    made.append(copy);
  }
  return made;
}

function enlarge(card) {
  current = card;
  const photo = one(".photo", card);
  const outline = all(".outline", card);
  one("#large-name").textContent = one("h3", card).title;
  one(".verdict", large).replaceChildren(...one(".verdict", card).cloneNode(true).childNodes);
  const figures = all(".heatmap", card).map((heatmap) => {
    const { method } = heatmap.dataset;
    const notes = all(".text [data-method]", card).filter((note) => note.dataset.method === method);
    return figure(photo, [heatmap, ...outline], method, notes);
  });
  one(".beside", large).replaceChildren(figure(photo, [], "image"), ...figures);
  large.classList.toggle("incorrect", card.classList.contains("incorrect"));
  one(".more", large).replaceChildren(
    ...all(".bars, .numbers:not([data-method])", card).map((part) => part.cloneNode(true)),
  );
  if (!large.open) large.showModal();
}

function step(by) {
  const shown = cards.filter((card) => !card.hidden);
  enlarge(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
}

one(".grid")?.addEventListener("click", (event) => {
  const button = event.target.closest(".stage");
  if (button) enlarge(button.closest(".card"));
});
one("#previous").addEventListener("click", () => step(-1));
one("#next").addEventListener("click", () => step(1));
one("#close").addEventListener("click", () => large.close());
large.addEventListener("close", () => one(".stage", current).focus());
large.addEventListener("click", (event) => event.target === large && large.close());
large.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return; // whose arrows move the slider
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
one("#large-opacity")?.addEventListener("input", (event) => setOpacity(event.target.value));
