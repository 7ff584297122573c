// Decisions under a threshold: counts, precision and recall, the histogram, and the slider that moves it all.
"use strict";

// Counts and figures of predictions under a threshold: anomalous means score >= threshold. A figure that needs images of a
// kind that is not there is not-a-number, as in us_anomaly/scoring/image_metrics.py.
usad.confusion = (predictions, threshold) => {
  const counts = { truePositives: 0, falseAlarms: 0, misses: 0, trueNegatives: 0 };
  for (const { score, anomalous } of predictions) {
    if (score >= threshold) counts[anomalous ? "truePositives" : "falseAlarms"]++;
    else counts[anomalous ? "misses" : "trueNegatives"]++;
  }
  const { truePositives, falseAlarms, misses, trueNegatives } = counts;
  const hasBoth = truePositives + misses > 0 && falseAlarms + trueNegatives > 0;
  return {
    ...counts,
    precision: hasBoth ? truePositives / (truePositives + falseAlarms) : NaN,
    recall: truePositives / (truePositives + misses),
    f1: hasBoth ? (2 * truePositives) / (2 * truePositives + falseAlarms + misses) : NaN,
    falsePositiveRate: falseAlarms / (falseAlarms + trueNegatives),
    accuracy: (truePositives + trueNegatives) / predictions.length,
  };
};

// Say why figures are absent; nothing where they are all there.
usad.whyAbsent = ({ truePositives, falseAlarms, misses, trueNegatives }) => {
  const [hasAnomalous, hasNormal] = [truePositives + misses > 0, falseAlarms + trueNegatives > 0];
  if (!hasAnomalous && !hasNormal) return "No image here, so no figures.";
  if (!hasAnomalous) return "No anomalous image here, so no precision, recall and F1.";
  if (!hasNormal) return "No normal image here, so no precision, F1 and false-positive rate.";
  return truePositives + falseAlarms > 0 ? "" : "No image is called anomalous, so no precision.";
};

// Name of a decision, as the filter `show` has it.
usad.outcome = ({ score, anomalous }, threshold) => {
  if (score >= threshold) return anomalous ? "true-positive" : "false-alarm";
  return anomalous ? "miss" : "true-negative";
};

// From scores to positions 0..1 and back; logarithmic where a few high scores would press the others together.
usad.scoreScale = (scores) => {
  const ascending = Float64Array.from(scores).sort();
  const [least, median, most] = [0, 0.5, 1].map((at) => ascending[Math.floor(at * (ascending.length - 1))]);
  if (least > 0 && most >= 12 * median) {
    const [low, high] = [Math.log(least / 1.05), Math.log(most * 1.05)];
    return { position: (score) => (Math.log(score) - low) / (high - low), score: (at) => Math.exp(low + at * (high - low)) };
  }
  const air = 0.02 * (most - least) || 0.02 * Math.abs(most) || 1;
  const [low, high] = [least - air, most + air];
  return { position: (score) => (score - low) / (high - low), score: (at) => low + at * (high - low) };
};

usad.ThresholdPanel = class {
  // onChange(threshold) is called when the user moves it.
  constructor(meaning, predictions, onChange) {
    this.calibrated = meaning.threshold;
    this.threshold = meaning.threshold;
    this.rule = meaning.rule;
    this.onChange = onChange;
    this.scale = usad.scoreScale([...predictions.map(({ score }) => score), meaning.threshold]);
    this.slider = usad.byId("threshold");
    this.box = usad.byId("threshold-value");
    this.reset = usad.byId("threshold-reset");
    this.slider.addEventListener("input", () => this.set(this.scale.score(Number(this.slider.value) / 1000)));
    this.box.addEventListener("change", () => {
      const typed = this.box.valueAsNumber;
      this.set(Number.isFinite(typed) ? typed : this.threshold);
    });
    this.reset.addEventListener("click", () => this.set(this.calibrated));
  }

  set(threshold) {
    this.threshold = threshold;
    this.onChange(threshold);
  }

  // Show the threshold, and the counts and scores of `predictions` (of one split, by `types`).
  show(predictions, types, type, onType) {
    const { threshold, calibrated } = this;
    const at = Math.min(1, Math.max(0, this.scale.position(threshold)));
    if (document.activeElement !== this.slider || this.scale.score(Number(this.slider.value) / 1000) !== threshold) {
      this.slider.value = Math.round(at * 1000);
    }
    this.slider.setAttribute("aria-valuetext", usad.number(threshold, 5));
    this.box.value = Number(threshold.toPrecision(6));
    this.reset.disabled = threshold === calibrated;
    usad.byId("threshold-note").textContent =
      threshold === calibrated
        ? `Calibrated by the rule ${this.rule}, without any test image. Move it to see what would change.`
        : `The calibrated threshold is ${usad.number(calibrated, 5)}. One chosen by looking at test images flatters the result.`;
    this.draw(predictions, at);
    this.count(predictions);
    this.byType(predictions, types, type, onType);
  }

  count(predictions) {
    const counted = usad.confusion(predictions, this.threshold);
    usad.byId("true-positives").textContent = counted.truePositives;
    usad.byId("true-negatives").textContent = counted.trueNegatives;
    usad.byId("false-alarms").textContent = counted.falseAlarms;
    usad.byId("misses").textContent = counted.misses;
    usad.byId("false-alarms-noun").textContent = counted.falseAlarms === 1 ? "false alarm" : "false alarms";
    usad.byId("precision").textContent = usad.share(counted.precision);
    usad.byId("recall").textContent = usad.share(counted.recall);
    usad.byId("f1").textContent = usad.share(counted.f1);
    usad.byId("false-positive-rate").textContent = usad.share(counted.falsePositiveRate);
    usad.byId("accuracy").textContent = usad.share(counted.accuracy);
    usad.byId("absent-note").textContent = usad.whyAbsent(counted);
  }

  byType(predictions, types, type, onType) {
    const buttons = types.map((name) => {
      const members = predictions.filter((one) => one.anomalous && one.type === name);
      const found = members.filter(({ score }) => score >= this.threshold).length;
      const button = usad.element(
        "button",
        { type: "button", class: "type-chip", "aria-pressed": String(name === type) },
        usad.element("span", {}, name),
        usad.element("b", {}, `${found}/${members.length}`),
      );
      button.addEventListener("click", () => onType(name === type ? "" : name));
      return button;
    });
    const had = usad.byId("types").contains(document.activeElement) ? document.activeElement.firstChild.textContent : null;
    usad.byId("types").replaceChildren(...buttons);
    if (had !== null) buttons[types.indexOf(had)]?.focus();
  }

  draw(predictions, at) {
    const picture = usad.byId("histogram");
    const [width, height, bins] = [600, 92, 75];
    const counts = { true: new Array(bins).fill(0), false: new Array(bins).fill(0) };
    for (const { score, anomalous } of predictions) {
      const bin = Math.floor(this.scale.position(score) * bins);
      counts[anomalous][Math.min(bins - 1, Math.max(0, bin))]++;
    }
    const most = Math.max(1, ...counts.true, ...counts.false);
    const middle = height / 2;
    const shapes = [];
    for (const [anomalous, kind] of [[false, "normal"], [true, "anomalous"]]) {
      counts[anomalous].forEach((count, bin) => {
        if (!count) return;
        const length = Math.max(2, (count / most) * (middle - 2));
        const box = { x: (bin * width) / bins + 0.6, width: width / bins - 1.2, height: length, class: `bar ${kind}` };
        shapes.push(usad.svg("rect", { ...box, y: anomalous ? middle + 1 : middle - 1 - length }));
      });
    }
    shapes.push(usad.svg("line", { class: "zero", x1: 0, x2: width, y1: middle, y2: middle }));
    shapes.push(usad.svg("line", { class: "mark threshold", x1: at * width, x2: at * width, y1: 0, y2: height }));
    picture.replaceChildren(...shapes);
  }
};
