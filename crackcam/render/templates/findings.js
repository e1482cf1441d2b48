// Findings: verdicts that survive a reload, filters by region, sorting of photographs.

const rows = all(".finding tbody tr");
const spot = one("#spot");

function chosen(name) {
  const field = controls.elements[name];
  return field ? field.value : "all";
}

// -- verdicts: kept by the boxes of their regions, for all pages of a report and for later runs

const memory = controls && `crackcam-verdicts-${controls.dataset.run}`;
const cardOf = (row) => row.closest(".finding");
const keyOf = (row) => `${cardOf(row).dataset.name}\n${row.dataset.box}`;

function stored() {
  try {
    return JSON.parse(localStorage.getItem(memory)) ?? {};
  } catch {
    return {};
  }
}

function store(verdicts) {
  try {
    localStorage.setItem(memory, JSON.stringify(verdicts));
  } catch {
    one("#unkept").hidden = false;
  }
}

const before = controls ? JSON.parse(one("#before").textContent) : []; // what an earlier round rejected is not shown
let verdicts = controls
  ? {
      ...Object.fromEntries(before.map((each) => [`${each.image}\n${[each.x, each.y, each.width, each.height]}`, each])),
      ...stored(),
    }
  : {};

function entry(row, verdict) {
  const [x, y, width, height] = row.dataset.box.split(",").map(Number);
  return { image: cardOf(row).dataset.name, region: Number(row.dataset.region), x, y, width, height, verdict };
}

function mark(row, verdict) {
  row.dataset.verdict = verdict;
  for (const input of all("input[type=radio]", row)) input.checked = input.value === verdict;
  for (const part of all(`svg [data-region="${row.dataset.region}"]`, cardOf(row))) {
    part.classList.toggle("accept", verdict === "accept");
    part.classList.toggle("reject", verdict === "reject");
  }
}

function judge(row, verdict) {
  verdicts = { ...verdicts, ...stored(), [keyOf(row)]: entry(row, verdict) };
  store(verdicts);
  mark(row, verdict);
  countVerdicts();
}

function judged() {
  return Object.values({ ...verdicts, ...stored() }).filter(({ verdict }) => verdict !== "");
}

function countVerdicts() {
  const found = judged();
  const accepted = found.filter(({ verdict }) => verdict === "accept").length;
  one("#judged").textContent = found.length ? `${accepted} accepted, ${found.length - accepted} rejected` : "none yet";
}

const COLUMNS = ["image", "region", "x", "y", "width", "height", "verdict"];

function asCsv(entries) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = [COLUMNS, ...entries.map((each) => COLUMNS.map((name) => each[name]))];
  const text = lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
  return /[^\x00-\x7f]/.test(text) ? `\ufeff${text}` : text; // by that mark Excel knows UTF-8
}

function download() {
  const byName = (a, b) => a.image.localeCompare(b.image, undefined, { numeric: true }) || a.region - b.region;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([asCsv(judged().sort(byName))], { type: "text/csv" }));
  link.download = "verdicts.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// -- filters and order

function fits(row) {
  const { width, verdict } = row.dataset;
  const least = Number(chosen("least")) || 0;
  if (chosen("class") !== "all" && chosen("class") !== row.dataset.class) return false;
  if (chosen("verdict") !== "all" && chosen("verdict") !== verdict) return false;
  if (least === 0) return true;
  if (width === "") return false;
  return "narrow" in row.dataset ? Number(width) > least : Number(width) >= least; // a narrow one may reach it
}

function filter() {
  for (const card of cards) {
    for (const row of all("tbody tr", card)) {
      row.hidden = !fits(row);
      for (const part of all(`svg [data-region="${row.dataset.region}"]`, card)) part.toggleAttribute("hidden", row.hidden);
    }
    card.hidden = !one("tbody tr:not([hidden])", card);
    const dot = one(`.map a[href$="#${card.id}"]`);
    if (dot) dot.classList.toggle("off", card.hidden);
  }
  const regions = rows.filter((row) => !row.hidden).length;
  const photographs = cards.filter((card) => !card.hidden).length;
  one("#count").textContent = `${counted(regions, "region")} of ${counted(photographs, "photograph")}`;
  const unknown = Number(chosen("least")) > 0 ? rows.filter((row) => row.dataset.width === "").length : 0;
  if (unknown) one("#count").textContent += `, ${unknown.toLocaleString("en")} without a measured width hidden`;
  one("#none").hidden = photographs > 0;
}

const byNumber = (a, b) => a.dataset.number - b.dataset.number;
const orders = {
  number: byNumber,
  length: (a, b) => b.dataset.length - a.dataset.length,
  regions: (a, b) => b.dataset.regions - a.dataset.regions,
  time: (a, b) => (a.dataset.time || "9999").localeCompare(b.dataset.time || "9999"),
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
};

function sort() {
  const compare = orders[chosen("sort")];
  one(".findings").append(...cards.sort((a, b) => compare(a, b) || byNumber(a, b)));
}

if (controls) {
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", ({ target }) => {
    if (target.name === "outlines") root.classList.toggle("bare", !target.checked);
    else if (target.name === "sort") sort();
    else filter();
  });
  const list = one(".findings");
  list.addEventListener("change", ({ target }) => judge(target.closest("tr"), target.value));
  for (const [type, lit] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
    list.addEventListener(type, ({ target }) => {
      const region = target.closest("[data-region]");
      if (!region) return;
      const number = region.dataset.region;
      for (const part of all(`svg [data-region="${number}"]`, cardOf(region))) part.classList.toggle("lit", lit);
    });
  }
  one("#download").addEventListener("click", download);
  for (const row of rows) {
    const kept = verdicts[keyOf(row)];
    if (kept) mark(row, kept.verdict);
    else if (row.dataset.verdict) {
      mark(row, row.dataset.verdict);
      verdicts[keyOf(row)] = entry(row, row.dataset.verdict);
    } else mark(row, "");
  }
  countVerdicts();
  filter();
}

// -- names of dots on the map

const usual = spot?.textContent;
for (const dot of all(".map a")) {
  const name = one("title", dot).textContent;
  for (const type of ["pointerenter", "focus"]) dot.addEventListener(type, () => { spot.textContent = name; });
  for (const type of ["pointerleave", "blur"]) dot.addEventListener(type, () => { spot.textContent = usual; });
}
