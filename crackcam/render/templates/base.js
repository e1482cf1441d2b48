"use strict";
// Light and dark, and short names: what all pages share. All text is set as text, never as markup.

const root = document.documentElement;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const controls = one("#controls");
const cards = all(".card");

// -- light and dark: kept for the other pages of the report, where the browser lets a file keep anything

function keep(theme) {
  try {
    if (theme) localStorage.setItem("crackcam-theme", theme);
    return localStorage.getItem("crackcam-theme");
  } catch {
    return null;
  }
}

const kept = keep();
if (kept) root.dataset.theme = kept;
one("#theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep(root.dataset.theme);
});

// Images before details on a small screen.
if (innerWidth < 480) for (const made of all(".made")) made.open = false;
