// A gallery of any length: only the cards in view, and a few rows around them, are in the page.
"use strict";

usad.Gallery = class {
  // draw(item, card) fills an empty card; refresh(item, card) brings it up to date with the controls; open(position) is
  // called when a card is chosen.
  constructor(container, { draw, refresh, open }) {
    this.container = container;
    this.draw = draw;
    this.refresh = refresh;
    this.open = open;
    this.items = [];
    this.cards = new Map();
    this.focused = 0;
    this.captionPx = Number(container.dataset.captionPx);
    this.layout = { columns: 1, width: 0, row: 1 };
    this.requested = false;
    addEventListener("scroll", () => this.request(), { passive: true });
    new ResizeObserver(() => this.resized()).observe(container);
    container.addEventListener("keydown", (event) => this.key(event));
    container.addEventListener("click", (event) => {
      const card = event.target.closest(".picture-card");
      if (card && !event.target.closest("a")) this.choose(Number(card.dataset.position));
    });
  }

  show(items) {
    if (items.length === this.items.length && items.every((item, position) => item === this.items[position])) {
      this.refreshAll();
      return;
    }
    this.items = items;
    this.focused = Math.min(this.focused, Math.max(0, items.length - 1));
    this.clear();
    this.resized();
  }

  // Bring the cards in view up to date, after something that they all show has changed.
  refreshAll() {
    for (const [position, card] of this.cards) this.refresh(this.items[position], card);
  }

  choose(position) {
    this.focused = position;
    this.mark();
    this.open(position);
  }

  // Scroll to a card and put the focus on it.
  reveal(position) {
    this.focused = position;
    const top = Math.floor(position / this.layout.columns) * this.layout.row;
    const offset = this.container.getBoundingClientRect().top + scrollY;
    const room = innerHeight - this.layout.row;
    if (top + offset < scrollY + 80 || top + offset > scrollY + room) scrollTo({ top: top + offset - room / 3 });
    this.render();
    this.cards.get(position)?.focus({ preventScroll: true });
  }

  clear() {
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
  }

  resized() {
    const width = this.container.clientWidth;
    const style = getComputedStyle(this.container);
    const wanted = parseFloat(style.getPropertyValue("--card-px")) || 220;
    const gap = parseFloat(style.getPropertyValue("--gap")) || 14;
    const columns = Math.max(1, Math.floor((width + gap) / (wanted + gap)));
    const card = Math.floor((width - gap * (columns - 1)) / columns);
    this.layout = { columns, width: card, gap, row: card + this.captionPx + gap };
    this.container.style.height = `${Math.ceil(this.items.length / columns) * this.layout.row}px`;
    for (const [position, made] of this.cards) this.place(made, position);
    this.render();
  }

  request() {
    if (this.requested) return;
    this.requested = true;
    requestAnimationFrame(() => {
      this.requested = false;
      this.render();
    });
  }

  render() {
    const { columns, row } = this.layout;
    const top = this.container.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - row) / row)) * columns;
    const last = Math.min(this.items.length, (Math.ceil((innerHeight - top) / row) + 1) * columns);
    for (const [position, card] of this.cards) {
      if ((position < first || position >= last) && position !== this.focused) {
        card.remove();
        this.cards.delete(position);
      }
    }
    const added = document.createDocumentFragment();
    for (let position = first; position < last; position++) {
      if (!this.cards.has(position)) added.append(this.make(position));
    }
    this.container.append(added);
    this.mark();
  }

  make(position) {
    const card = usad.element("div", { class: "picture-card", role: "option" });
    card.setAttribute("aria-setsize", this.items.length);
    card.setAttribute("aria-posinset", position + 1);
    card.dataset.position = position;
    this.cards.set(position, card);
    this.place(card, position);
    this.draw(this.items[position], card);
    this.refresh(this.items[position], card);
    return card;
  }

  place(card, position) {
    const { columns, width, gap, row } = this.layout;
    card.style.width = `${width}px`;
    card.style.height = `${width + this.captionPx}px`;
    card.style.transform = `translate(${(position % columns) * (width + gap)}px, ${Math.floor(position / columns) * row}px)`;
  }

  // One card can be reached by Tab, the others from there by the arrow keys.
  mark() {
    for (const [position, card] of this.cards) {
      card.tabIndex = position === this.focused ? 0 : -1;
      card.setAttribute("aria-selected", String(position === this.focused));
    }
  }

  key(event) {
    const { columns } = this.layout;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const card = event.target.closest(".picture-card");
    if (!card || event.altKey || event.ctrlKey || event.metaKey) return;
    const position = Number(card.dataset.position);
    let next = null;
    if (event.key in steps) next = position + steps[event.key];
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = this.items.length - 1;
    else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(position);
      return;
    }
    if (next === null || next < 0 || next >= this.items.length) return;
    event.preventDefault();
    this.reveal(next);
  }
};

// A frame for a stack of pictures.
usad.frame = () => usad.element("div", { class: "frame" }, usad.element("div", { class: "layers" }));

// Fill a frame; `layers` are [link, class] from bottom to top. Pictures that are there already stay.
usad.stack = (frame, layers, description) => {
  const stack = frame.querySelector(".layers");
  const before = [...stack.children].map((child) => child.getAttribute("src"));
  if (layers.length && before.length === layers.length && layers.every(([link], level) => link === before[level])) return;
  stack.replaceChildren();
  layers.forEach(([link, kind], level) => {
    const picture = usad.element("img", {
      src: link,
      class: kind,
      alt: level === 0 ? description : "",
      decoding: "async",
      draggable: "false",
    });
    stack.append(picture);
  });
  if (!layers.length) stack.append(usad.element("span", { class: "missing" }, "the image cannot be read"));
};

usad.labelBadge = (image) =>
  image.anomalous
    ? usad.element("span", { class: "badge anomalous" }, "Anomalous")
    : usad.element("span", { class: "badge normal" }, "Normal");

usad.caption = (image) => {
  const cut = image.name.lastIndexOf("/") + 1;
  return usad.element(
    "div",
    { class: "caption", title: image.name },
    usad.element("span", { class: "file" }, image.name.slice(cut)),
    usad.element("span", { class: "folder" }, `${image.split} · ${image.anomalous ? image.type : "normal"}`),
  );
};

// Fill a list of choices with the defect types that there are.
usad.fillTypes = (select, images) => {
  const types = [...new Set(images.filter((image) => image.anomalous).map((image) => image.type))].sort();
  for (const type of types) select.append(usad.element("option", { value: type }, type));
  return types;
};
