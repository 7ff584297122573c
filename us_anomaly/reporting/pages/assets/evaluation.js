// The evaluation page: every prediction with its maps, and what another threshold would make of it.
"use strict";

usad.onPredictions = (meaning, records) => {
  const predictions = records.map((record) => ({ ...record, ...identity(usad.images[record.image]), picture: usad.images[record.image] }));
  const ids = ["search", "split", "show", "type", "sort", "opacity", "outline"];
  const controls = Object.fromEntries(ids.map((id) => [id, usad.byId(id)]));
  const radios = [...document.querySelectorAll("#layer input")];
  const splits = [...new Set(predictions.map(({ split }) => split))];
  const types = usad.fillTypes(controls.type, predictions);
  const remembered = ["search", "split", "show", "type", "sort"];
  const everything = "all"; // a value of its own: an empty one is not kept in the address
  let shown = [];

  function identity({ name, split, anomalous, type }) {
    return { name, split, anomalous, type };
  }

  const layer = () => radios.find((radio) => radio.checked).value;

  const layers = (one, size) => {
    const picture = one.picture;
    if (!picture.gallery) return [];
    const stack = [[picture[size], "base"]];
    const suffix = size === "view" ? "View" : "";
    const over = { heatmap: one[`heatmap${suffix}`], uncertainty: one[`uncertainty${suffix}`], mask: picture.mask }[layer()];
    if (over) stack.push([over, layer() === "mask" ? "mask" : "heat"]);
    if (controls.outline.checked && picture.outline) stack.push([picture.outline, "outline"]);
    return stack;
  };

  const scoreBadge = (one) => {
    const badge = usad.element("span", { class: "badge score", title: "image score" }, usad.number(one.score));
    badge.style.backgroundColor = decisionColor(one.score);
    return badge;
  };

  const decisionColor = (score) => {
    const normalized = 0.5 + 0.5 * Math.tanh((0.5 * (score - panel.threshold)) / meaning.scoreScale);
    return meaning.decisionColors[Math.round(normalized * (meaning.decisionColors.length - 1))];
  };

  const verdicts = {
    "true-positive": "found",
    "true-negative": "passed",
    "false-alarm": "false alarm",
    miss: "missed",
  };

  const isRight = (outcome) => outcome === "true-positive" || outcome === "true-negative";

  const verdictBadge = (outcome) =>
    usad.element("span", { class: `verdict-badge ${isRight(outcome) ? "right" : "wrong"}` }, `${isRight(outcome) ? "✓" : "✗"} ${verdicts[outcome]}`);

  const draw = (one, card) => {
    const frame = usad.frame();
    frame.append(usad.element("div", { class: "corner left" }), usad.element("div", { class: "corner right" }));
    card.append(frame, usad.caption(one));
  };

  const refresh = (one, card) => {
    const outcome = usad.outcome(one, panel.threshold);
    const frame = card.querySelector(".frame");
    usad.stack(frame, layers(one, "gallery"), one.name);
    card.classList.toggle("right", isRight(outcome));
    card.classList.toggle("wrong", !isRight(outcome));
    card.dataset.outcome = outcome;
    frame.querySelector(".corner.left").replaceChildren(verdictBadge(outcome));
    frame.querySelector(".corner.right").replaceChildren(scoreBadge(one));
    const label = one.anomalous ? `anomalous, ${one.type}` : "normal";
    card.setAttribute("aria-label", `${one.name}, ${label}, score ${usad.number(one.score)}, ${verdicts[outcome]}`);
  };

  const describe = (one) => {
    const outcome = usad.outcome(one, panel.threshold);
    return {
      image: one.picture,
      kind: isRight(outcome) ? "right" : "wrong",
      layers: layers(one, "view"),
      badges: [usad.labelBadge(one), scoreBadge(one), verdictBadge(outcome)],
      facts: [
        ["image score", usad.number(one.score, 5)],
        ["image threshold", usad.number(panel.threshold, 5)],
        ["decision", one.score >= panel.threshold ? "anomalous" : "normal"],
        ["label", one.anomalous ? `anomalous (${one.type})` : "normal"],
        ["split", one.split],
      ],
      controls: [viewerControls(), usad.colorLegend(meaning, layer())],
      values: one.values,
      limits: { uncertainty: meaning.uncertaintyRange[1] }, // its picture ends there
      valuesNote: "No scores per pixel: the maps were not saved (inference.save_maps).",
      links: [[one.heatmapView, "heatmap"]],
    };
  };

  // The same switches as above the gallery, which the large view covers.
  const viewerControls = () => {
    const box = usad.element("div", { class: "viewer-controls" });
    const select = usad.element("select", { "aria-label": "Layer" });
    for (const radio of radios) {
      select.append(usad.element("option", { value: radio.value, selected: radio.checked }, radio.nextElementSibling.textContent));
    }
    select.addEventListener("change", () => {
      radios.find((radio) => radio.value === select.value).checked = true;
      look();
      usad.byId("viewer-side").querySelector("select").focus();
    });
    const slider = usad.element("input", { type: "range", min: 0, max: 100, value: controls.opacity.value, "aria-label": "Opacity" });
    slider.addEventListener("input", () => {
      controls.opacity.value = slider.value;
      fade();
    });
    const outline = usad.element("input", { type: "checkbox", checked: controls.outline.checked });
    outline.addEventListener("change", () => {
      controls.outline.checked = outline.checked;
      look();
      usad.byId("viewer-side").querySelector("input[type=checkbox]").focus(); // or the keys of the dialog are dead
    });
    box.append(select, slider, usad.element("label", { class: "check" }, outline, " Mask outline"));
    return box;
  };

  const fade = () => document.documentElement.style.setProperty("--overlay-opacity", Number(controls.opacity.value) / 100);

  const look = () => {
    gallery.refreshAll();
    viewer.redraw();
    usad.byId("color-legend").replaceChildren(usad.colorLegend(meaning, layer()));
  };

  const chosen = () => {
    const text = controls.search.value.trim().toLowerCase();
    const { split, show, type } = Object.fromEntries(["split", "show", "type"].map((id) => [id, controls[id].value]));
    return predictions.filter((one) => {
      if (split !== everything && one.split !== split) return false;
      if (type && !(one.anomalous && one.type === type)) return false;
      if (text && !one.name.toLowerCase().includes(text)) return false;
      if (!show) return true;
      const outcome = usad.outcome(one, panel.threshold);
      return show === "right" ? isRight(outcome) : show === "wrong" ? !isRight(outcome) : outcome === show;
    });
  };

  const sorted = (list) => {
    const error = (one) => (one.anomalous ? panel.threshold - one.score : one.score - panel.threshold);
    const orders = {
      "score-down": (a, b) => b.score - a.score,
      "score-up": (a, b) => a.score - b.score,
      error: (a, b) => error(b) - error(a),
      name: (a, b) => (a.name < b.name ? -1 : 1),
    };
    return list.sort(orders[controls.sort.value]);
  };

  const ofSplit = () => predictions.filter((one) => [everything, one.split].includes(controls.split.value));

  const update = () => {
    shown = sorted(chosen());
    usad.byId("count").textContent = `${shown.length} of ${predictions.length} images`;
    panel.show(ofSplit(), types, controls.type.value, (type) => {
      controls.type.value = type;
      update();
    });
    const moved = panel.threshold === meaning.threshold ? "" : String(panel.threshold);
    usad.writeAddress({ ...Object.fromEntries(remembered.map((id) => [id, controls[id].value])), threshold: moved });
    gallery.show(shown);
    usad.byId("color-legend").replaceChildren(usad.colorLegend(meaning, layer()));
  };

  // While the threshold moves, cards stay where they are unless the filter or the order depends on it.
  let waiting = false;
  const panel = new usad.ThresholdPanel(meaning, predictions, () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      update();
    });
  });
  const viewer = new usad.Viewer({ describe, onMove: (position) => gallery.reveal(position) });
  const gallery = new usad.Gallery(usad.byId("gallery"), { draw, refresh, open: (position) => viewer.open(shown, position) });

  for (const split of splits) controls.split.append(usad.element("option", { value: split }, split));
  controls.split.append(usad.element("option", { value: everything }, "all"));
  if (splits.includes("test")) controls.split.value = "test";
  const address = usad.readAddress();
  for (const id of remembered) if (address.has(id)) controls[id].value = address.get(id);
  if (!controls.split.value) controls.split.value = everything; // an address of another data set
  if (Number.isFinite(parseFloat(address.get("threshold")))) panel.threshold = parseFloat(address.get("threshold"));
  for (const id of remembered) controls[id].addEventListener("input", update);
  for (const radio of radios) radio.addEventListener("change", look);
  for (const button of document.querySelectorAll(".confusion [data-show]")) {
    button.addEventListener("click", () => {
      controls.show.value = controls.show.value === button.dataset.show ? "" : button.dataset.show;
      update();
    });
  }
  controls.outline.addEventListener("change", look);
  controls.opacity.addEventListener("input", fade);
  usad.byId("controls").addEventListener("submit", (event) => event.preventDefault());
  usad.started = true;
  fade();
  update();
};

// The colours of a layer with their values and, among the scores per pixel, the pixel threshold: the movable threshold is one
// of image scores, which need not be the highest of their pixels.
usad.colorLegend = (meaning, layer) => {
  const box = usad.element("div", { class: "legend-box" });
  const range = { heatmap: meaning.colorRange, uncertainty: meaning.uncertaintyRange }[layer];
  if (!range) return box;
  const [low, high] = range;
  const bar = usad.element("div", { class: "legend-bar" });
  bar.style.background = `linear-gradient(to right, ${meaning.mapColors.join(", ")})`;
  const scale = usad.element("div", { class: "legend-scale" });
  for (const at of [0, 0.25, 0.5, 0.75, 1]) {
    const sign = at === 0 ? "≤ " : at === 1 ? "≥ " : "";
    const tick = usad.element("span", {}, sign + usad.number(low + at * (high - low)));
    tick.style.left = `${at * 100}%`;
    scale.append(tick);
  }
  if (layer === "heatmap") {
    const at = Math.min(1, Math.max(0, (meaning.pixelThreshold - low) / (high - low)));
    const mark = usad.element("div", { class: "legend-mark" });
    mark.style.left = `${at * 100}%`;
    bar.append(mark);
  }
  const title =
    layer === "heatmap"
      ? `Anomaly score per pixel; the line is the pixel threshold, ${usad.number(meaning.pixelThreshold, 4)}`
      : "Predictive uncertainty per pixel: how far the students disagree";
  box.append(usad.element("span", { class: "small" }, title), usad.element("div", { class: "legend-ruler" }, bar, scale));
  return box;
};

addEventListener("load", () => {
  if (!usad.started) usad.fail("The results, data/images.js and data/predictions.js, are missing in the folder of this page.");
});
