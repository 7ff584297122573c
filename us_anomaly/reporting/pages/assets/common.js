// What every page needs: the theme, small helpers, and the door through which data files hand over their content.
// Text from the data set only ever becomes text: nothing here or in the other scripts sets markup.
"use strict";

const usad = {
  images: null,
  values: new Map(),

  // Called by data/images.js.
  takeImages(images) {
    usad.images = images;
    if (usad.onImages) usad.onImages(images);
  },

  // Called by data/predictions.js.
  takePredictions(meaning, predictions) {
    if (usad.onPredictions) usad.onPredictions(meaning, predictions);
  },

  // Called by values/<key>.js.
  takeValues(key, encoded) {
    usad.values.set(key, encoded);
  },

  // Make an element: usad.element("a", {href: "x", class: "y"}, "text", child).
  element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  },

  svg(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  },

  byId(id) {
    return document.getElementById(id);
  },

  // A number with `digits` significant digits, without the exponent where a person would not write one.
  number(value, digits = 3) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(digits - 1);
    return String(Number(value.toPrecision(Math.max(digits, Math.min(7, Math.floor(Math.log10(size || 1)) + 1)))));
  },

  share(value) {
    return Number.isFinite(value) ? value.toFixed(3) : "–";
  },

  // The state of the controls in the address, so that a view can be linked to.
  readAddress() {
    return new URLSearchParams(location.hash.slice(1));
  },

  writeAddress(state) {
    const kept = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== "" && value !== null));
    const text = kept.toString();
    try {
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    } catch {
      // Some browsers refuse more than a hundred in a row, as a slider makes them; the next one tells the state again.
    }
  },

  fail(message) {
    const where = document.querySelector("main");
    where.prepend(usad.element("p", { class: "callout", role: "alert" }, message));
  },
};
window.usad = usad;

const themes = ["auto", "light", "dark"];

function storedTheme() {
  try {
    const stored = localStorage.getItem("usad-theme");
    return themes.includes(stored) ? stored : "auto";
  } catch {
    return "auto"; // storage may be forbidden for pages from disk
  }
}

function applyTheme(theme) {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", theme);
  const name = usad.byId("theme-name");
  if (!name) return; // the page is not there yet
  name.textContent = theme;
  usad.byId("theme").setAttribute("aria-label", `Colours of the page: ${theme}`);
}

applyTheme(storedTheme()); // before the first paint

document.addEventListener("DOMContentLoaded", () => {
  let theme = storedTheme();
  applyTheme(theme);
  usad.byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try {
      localStorage.setItem("usad-theme", theme);
    } catch {
      // it then holds for this page only
    }
    applyTheme(theme);
  });
});
