// Tooltips of the plots: the nearest point of `data-points` under the pointer, or by the arrow keys.
"use strict";

(() => {
  const tooltip = usad.element("div", { class: "tooltip", role: "status", hidden: true });
  document.body.append(tooltip);

  function show(plot, points, index) {
    const [x, y, text] = points[index];
    const cursor = plot.querySelector(".cursor");
    const line = cursor.querySelector("line");
    const dot = cursor.querySelector("circle");
    for (const end of ["x1", "x2"]) line.setAttribute(end, x);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    cursor.removeAttribute("hidden");
    tooltip.replaceChildren(...text.split("\n").map((part) => usad.element("div", {}, part)));
    tooltip.hidden = false;
    const box = plot.getBoundingClientRect();
    const scale = box.width / plot.viewBox.baseVal.width;
    const left = box.left + x * scale;
    const above = box.top + y * scale - tooltip.offsetHeight - 12;
    const aside = left + 12 + tooltip.offsetWidth > innerWidth - 8 ? left - 12 - tooltip.offsetWidth : left + 12;
    tooltip.style.left = `${Math.max(8, aside)}px`;
    tooltip.style.top = `${above < 8 ? box.top + y * scale + 12 : above}px`;
  }

  function hide(plot) {
    plot.querySelector(".cursor").setAttribute("hidden", "");
    tooltip.hidden = true;
  }

  function nearest(points, x, y) {
    let best = 0;
    let least = Infinity;
    points.forEach(([left, top], index) => {
      const distance = Math.abs(left - x) + 0.25 * Math.abs(top - y);
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  }

  for (const plot of document.querySelectorAll("svg.plot[data-points]")) {
    const points = JSON.parse(plot.dataset.points);
    if (!points.length) continue;
    let index = 0;
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const scale = plot.viewBox.baseVal.width / box.width;
      index = nearest(points, (event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
      show(plot, points, index);
    });
    plot.addEventListener("pointerleave", () => hide(plot));
    plot.addEventListener("blur", () => hide(plot));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -points.length, End: points.length }[event.key];
      if (event.key === "Escape") hide(plot);
      if (step === undefined) return;
      event.preventDefault();
      index = Math.min(Math.max(index + step, 0), points.length - 1);
      show(plot, points, index);
    });
  }
})();
