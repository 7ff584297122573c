// The large view: one image with its layers, facts, and the values under the pointer.
"use strict";

// Undo us_anomaly/reporting/readout.py: base64, zlib, differences along rows, inverse hyperbolic sine.
usad.decodeValues = async (encoded) => {
  const packed = Uint8Array.from(atob(encoded.data), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const { height, width, low, high, unit, codes } = encoded;
  const size = height * width;
  const cells = new Float32Array(size);
  for (let row = 0; row < height; row++) {
    let code = 0;
    for (let column = 0; column < width; column++) {
      const index = row * width + column;
      const unsigned = bytes[index] | (bytes[size + index] << 8);
      code += unsigned & 1 ? -(unsigned + 1) / 2 : unsigned / 2;
      cells[index] = unit * Math.sinh(low + (code / (codes - 1)) * (high - low));
    }
  }
  return { height, width, cellPx: encoded.cell_px, cells };
};

// Load values/<key>.js by a script element, because a page from disk may not read files otherwise.
usad.loadValues = (key) =>
  new Promise((resolve, reject) => {
    const script = usad.element("script", { src: `values/${key}.js` });
    script.addEventListener("load", () => {
      script.remove();
      resolve(usad.values.get(key));
      usad.values.delete(key);
    });
    script.addEventListener("error", reject);
    document.head.append(script);
  }).then(async ({ score, uncertainty }) => ({
    score: await usad.decodeValues(score),
    uncertainty: uncertainty ? await usad.decodeValues(uncertainty) : null,
  }));

usad.Viewer = class {
  // describe(item) returns {image, layers, badges, facts, values, note}; onMove(position) follows the arrow keys.
  constructor({ describe, onMove }) {
    this.describe = describe;
    this.onMove = onMove;
    this.dialog = usad.byId("viewer");
    this.stage = usad.byId("viewer-stage");
    this.sheet = usad.byId("viewer-sheet");
    this.side = usad.byId("viewer-side");
    this.items = [];
    this.position = 0;
    this.zoom = 1;
    this.maps = null;
    const on = (id, work) => usad.byId(id).addEventListener("click", work);
    on("viewer-close", () => this.dialog.close());
    on("viewer-previous", () => this.move(-1));
    on("viewer-next", () => this.move(1));
    on("viewer-zoom-in", () => this.scale(1.5));
    on("viewer-zoom-out", () => this.scale(1 / 1.5));
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("close", () => this.onMove(this.position));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.stage.addEventListener("pointermove", (event) => this.read(event));
    this.stage.addEventListener("pointerdown", (event) => this.read(event));
    this.stage.addEventListener("pointerleave", () => this.readNothing());
    addEventListener("resize", () => this.fit());
  }

  open(items, position) {
    this.items = items;
    this.position = position;
    this.zoom = 1;
    if (!this.dialog.open) this.dialog.showModal();
    this.draw();
  }

  // Draw the open image anew, after something that it shows has changed.
  redraw() {
    if (this.dialog.open) this.draw();
  }

  move(step) {
    const next = this.position + step;
    if (next < 0 || next >= this.items.length) return;
    this.position = next;
    this.draw();
  }

  scale(factor) {
    this.zoom = Math.min(8, Math.max(1, this.zoom * factor));
    this.fit();
  }

  key(event) {
    if (event.target.matches("input[type=range], select") || event.altKey || event.ctrlKey || event.metaKey) return;
    const work = {
      ArrowLeft: () => this.move(-1),
      ArrowRight: () => this.move(1),
      Home: () => this.move(-this.position),
      End: () => this.move(this.items.length - 1 - this.position),
      "+": () => this.scale(1.5),
      "=": () => this.scale(1.5),
      "-": () => this.scale(1 / 1.5),
    }[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  }

  draw() {
    const shown = this.describe(this.items[this.position]);
    this.image = shown.image;
    this.maps = null;
    this.limits = shown.limits;
    usad.byId("viewer-title").textContent = this.image.name;
    usad.byId("viewer-position").textContent = `${this.position + 1} / ${this.items.length}`;
    usad.byId("viewer-previous").disabled = this.position === 0;
    usad.byId("viewer-next").disabled = this.position === this.items.length - 1;
    this.sheet.className = `sheet ${shown.kind || ""}`;
    const frame = usad.frame();
    usad.stack(frame, shown.layers, this.image.name);
    this.sheet.replaceChildren(frame);
    this.fit();
    this.tell(shown);
    if (shown.values) this.load(shown.values);
  }

  tell(shown) {
    const facts = usad.element("dl", { class: "facts" });
    const rows = [...shown.facts, ["size", this.image.width ? `${this.image.width} × ${this.image.height} px` : null]];
    for (const [name, value] of rows) {
      if (value === null || value === undefined) continue;
      facts.append(usad.element("div", {}, usad.element("dt", {}, name), usad.element("dd", {}, value)));
    }
    this.readout = usad.element("dl", { class: "facts readout", "aria-live": "off" });
    this.readoutNote = usad.element("p", { class: "small" }, shown.values ? "loading the scores per pixel …" : shown.valuesNote);
    this.side.replaceChildren(
      usad.element("p", { class: "badges" }, ...shown.badges),
      facts,
      ...(shown.controls || []),
      usad.element("h3", {}, "Under the pointer"),
      this.readout,
      this.readoutNote,
      usad.element("p", { class: "small links" }, ...this.links(shown)),
    );
    this.readNothing();
  }

  links(shown) {
    const known = [
      [this.image.original, "original image"],
      ...(shown.links || []),
    ].filter(([address]) => address);
    return known.flatMap(([address, text], index) => [
      ...(index ? [" · "] : []),
      usad.element("a", { href: address, target: "_blank", rel: "noopener" }, text),
    ]);
  }

  async load(key) {
    const image = this.image;
    try {
      const maps = await usad.loadValues(key);
      if (this.image !== image) return;
      this.maps = maps;
      const { cellPx } = maps.score;
      this.readoutNote.textContent =
        cellPx === 1 ? "Values pixel by pixel." : `The highest value of each ${cellPx} × ${cellPx} pixels.`;
      this.readNothing();
    } catch {
      if (this.image === image) this.readoutNote.textContent = "The scores per pixel cannot be loaded in this browser.";
    }
  }

  // The sheet has the shape of the image and fills the stage at zoom 1.
  fit() {
    if (!this.dialog.open || !this.image) return;
    const shape = (this.image.width || 1) / (this.image.height || 1);
    const width = Math.min(this.stage.clientWidth, this.stage.clientHeight * shape) * this.zoom;
    this.sheet.style.width = `${Math.floor(width)}px`;
    this.sheet.style.height = `${Math.floor(width / shape)}px`;
  }

  read(event) {
    const box = this.sheet.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    if (across < 0 || across >= 1 || down < 0 || down >= 1 || !this.image.width) {
      this.readNothing();
      return;
    }
    const x = Math.floor(across * this.image.width);
    const y = Math.floor(down * this.image.height);
    const rows = [["position", `${x}, ${y}`]];
    this.showReadout([...rows, ...this.valuesAt(x, y)]);
  }

  kinds() {
    return this.maps ? Object.keys(this.maps).filter((kind) => this.maps[kind]) : [];
  }

  valuesAt(x, y) {
    return this.kinds().map((kind) => {
      const { height, width, cellPx, cells } = this.maps[kind];
      const column = Math.min(width - 1, Math.floor(x / cellPx));
      const row = Math.min(height - 1, Math.floor(y / cellPx));
      const value = cells[row * width + column];
      const end = this.limits && this.limits[kind];
      const isCut = end !== undefined && end !== null && value >= end * 0.998;
      return [kind, (isCut ? "≥ " : "") + usad.number(value)];
    });
  }

  readNothing() {
    if (this.readout) this.showReadout([["position", "–"], ...this.kinds().map((kind) => [kind, "–"])]);
  }

  showReadout(rows) {
    this.readout.replaceChildren(
      ...rows.map(([name, value]) => usad.element("div", {}, usad.element("dt", {}, name), usad.element("dd", {}, value))),
    );
  }
};
