// The data set page: every image with its label and mask.
"use strict";

usad.onImages = (images) => {
  const controls = Object.fromEntries(["search", "split", "label", "type", "masks"].map((id) => [id, usad.byId(id)]));
  const filters = ["search", "split", "label", "type"];
  usad.fillTypes(controls.type, images);
  const address = usad.readAddress();
  for (const name of filters) if (address.has(name)) controls[name].value = address.get(name);
  let shown = [];

  const layers = (image, size) => {
    if (!image.gallery) return [];
    const stack = [[image[size], "base"]];
    if (image.mask && controls.masks.checked) stack.push([image.mask, "mask"]);
    return stack;
  };

  const draw = (image, card) => {
    const frame = usad.frame();
    frame.append(usad.labelBadge(image));
    card.setAttribute("aria-label", `${image.name}, ${image.anomalous ? `anomalous, ${image.type}` : "normal"}, ${image.split}`);
    card.append(frame, usad.caption(image));
  };

  const refresh = (image, card) => usad.stack(card.querySelector(".frame"), layers(image, "gallery"), image.name);

  const viewer = new usad.Viewer({
    describe: (image) => ({
      image,
      layers: layers(image, "view"),
      badges: [usad.labelBadge(image)],
      facts: [
        ["split", image.split],
        ["defect type", image.anomalous ? image.type : "none"],
        ["mask", image.mask ? "yes" : image.anomalous ? "none" : "not needed"],
        ["group", image.group],
      ],
    }),
    onMove: (position) => gallery.reveal(position),
  });

  const gallery = new usad.Gallery(usad.byId("gallery"), {
    draw,
    refresh,
    open: (position) => viewer.open(shown, position),
  });

  const update = () => {
    const text = controls.search.value.trim().toLowerCase();
    shown = images.filter(
      (image) =>
        (!text || image.name.toLowerCase().includes(text)) &&
        (!controls.split.value || image.split === controls.split.value) &&
        (!controls.label.value || image.anomalous === (controls.label.value === "anomalous")) &&
        (!controls.type.value || (image.anomalous && image.type === controls.type.value)),
    );
    const anomalous = shown.filter((image) => image.anomalous).length;
    usad.byId("count").textContent =
      `${shown.length} of ${images.length} images: ${shown.length - anomalous} normal, ${anomalous} anomalous`;
    usad.writeAddress(Object.fromEntries(filters.map((name) => [name, controls[name].value])));
    gallery.show(shown);
  };

  for (const name of filters) controls[name].addEventListener("input", update);
  controls.masks.addEventListener("input", () => gallery.refreshAll());
  usad.byId("controls").addEventListener("submit", (event) => event.preventDefault());
  update();
};

addEventListener("load", () => {
  if (!usad.images) usad.fail("The list of images, data/images.js, is missing in the folder of this page.");
});
