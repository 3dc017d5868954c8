// One network: its frames, the heat over them, and the arrows across them.
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim().split(/\s+/).map(Number);
}

class Panel {
  constructor(network, data) {
    this.network = network;
    this.data = data;
    this.read = new Map();
    this.rows = null;
    this.facts = element("span", { className: "facts" });
    this.scale = element("span", { className: "scale" });
    this.frames = element("div", { className: "frames", tabIndex: 0 });
    this.frames.setAttribute("role", "application");
    this.frames.setAttribute("aria-label", `${network.name}: frames. The arrow keys move the position.`);
    this.frames.setAttribute("aria-describedby", "help");
    this.drawing = shape("svg", { class: "drawing", "aria-hidden": "true" });
    const head = element("div", { className: "head" }, element("h2", { textContent: network.name }), this.facts, this.scale);
    this.root = element("section", { className: "panel" }, head, this.frames);
    this.root.setAttribute("aria-label", network.name);
  }

  // Shows the frames of a block; a network without it says so.
  async show(name) {
    const block = this.network.blocks[name];
    if (block && !this.read.has(name)) this.read.set(name, await Rows.read(block));
    this.rows = block ? this.read.get(name) : null;
    this.root.classList.toggle("empty", !block);
    this.frames.replaceChildren(this.drawing);
    this.scale.replaceChildren();
    this.facts.textContent = block ? "" : `has no block ${name}`;
    if (block) this.rows.frames.forEach((frame, step) => this.frames.append(this.frame(frame, step)));
    this.arrange();
  }

  frame(number, step) {
    const [height, width] = this.data.size;
    const picture = element("div", { className: "picture" });
    picture.dataset.step = step;
    picture.style.aspectRatio = `${width} / ${height}`;
    const image = element("img", { src: this.data.frames[number], alt: this.isClip() ? `frame ${number}` : "the image", draggable: false });
    if (Math.max(height, width) <= 96) image.className = "small";
    const heat = element("canvas", { className: "heat", width: this.rows.keys[2], height: this.rows.keys[1] });
    heat.style.height = `${100 * this.data.padded[0]}%`;
    heat.style.width = `${100 * this.data.padded[1]}%`;
    picture.append(image, heat);
    const caption = this.isClip() ? [element("figcaption", { textContent: `frame ${number}` })] : [];
    return element("figure", { className: "frame" }, picture, ...caption);
  }

  isClip() {
    return Object.keys(this.data.frames).length > 1;
  }

  // As many frames to a line as fit, and as many in each line.
  arrange() {
    const count = this.rows?.frames.length ?? 1;
    const [height, width] = this.data.size;
    const narrowest = Math.min(118 * Math.max(1, width / height), 240);
    const fit = Math.max(2, Math.floor(this.frames.clientWidth / narrowest));
    const lines = Math.ceil(count / fit);
    this.frames.style.setProperty("--columns", Math.ceil(count / lines));
  }

  // The place under a pointer, as shares of time, height and width; null beside the frames.
  placeAt(x, y) {
    const picture = document.elementFromPoint(x, y)?.closest(".picture");
    if (!picture || !this.frames.contains(picture)) return null;
    const box = picture.getBoundingClientRect();
    const share = (at, size, padded) => Math.min(Math.max(at / size, 0), 1 - 1e-9) / padded;
    return [
      (Number(picture.dataset.step) + 0.5) / this.rows.frames.length,
      share(y - box.top, box.height, this.data.padded[0]),
      share(x - box.left, box.width, this.data.padded[1]),
    ];
  }

  // Draws what the position at a place looks at, and returns it in words.
  look(place, count) {
    if (!this.rows) return `${this.network.name} has no such block`;
    const position = this.rows.nearest(place);
    const seen = this.rows.of(position);
    const strongest = this.rows.strongest(seen, count);
    this.drawHeat(seen);
    this.drawArrows(position, seen, strongest);
    return this.tell(position, seen, strongest);
  }

  drawHeat({ levels, negative }) {
    const [, height, width] = this.rows.keys;
    const [more, less] = [colour("--positive"), colour("--negative")];
    this.frames.querySelectorAll(".heat").forEach((canvas, step) => {
      const image = new ImageData(width, height);
      for (let cell = 0; cell < height * width; cell++) {
        const key = step * height * width + cell;
        image.data.set(negative(key) ? less : more, 4 * cell);
        image.data[4 * cell + 3] = levels[key]; // the weight is how dense the colour is
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    });
  }

  drawArrows(position, { levels, negative }, strongest) {
    const [, height, width] = this.rows.keys;
    const [, h, w] = this.rows.shape;
    const box = this.frames.getBoundingClientRect();
    const pictures = [...this.frames.querySelectorAll(".picture")].map((picture) => picture.getBoundingClientRect());
    const point = (frame, y, x) => [
      pictures[frame].left - box.left + pictures[frame].width * this.data.padded[1] * x,
      pictures[frame].top - box.top + pictures[frame].height * this.data.padded[0] * y,
    ];
    const [, y, x] = this.rows.middle(position);
    const from = point(position.frame, y, x);
    const drawn = strongest.toReversed().map((key) => {
      const [frame, row, column] = this.rows.place(key);
      return arrow(from, point(frame, (row + 0.5) / height, (column + 0.5) / width), levels[key] / 255, negative(key));
    });
    const [left, top] = point(position.frame, y - 0.5 / h, x - 0.5 / w);
    const [right, bottom] = point(position.frame, y + 0.5 / h, x + 0.5 / w);
    const cell = shape("rect", { class: "cell", x: left, y: top, width: right - left, height: bottom - top, rx: 2 });
    this.drawing.replaceChildren(cell, ...drawn, shape("circle", { class: "position", cx: from[0], cy: from[1], r: 5 }));
  }

  tell(position, { levels, negative, largest }, strongest) {
    const [, h, w] = this.rows.shape;
    const size = this.rows.shape.slice(this.isClip() ? 0 : 1).join(" × ");
    const keys = this.rows.size.toLocaleString("en");
    const total = levels.reduce((sum, level) => sum + level, 0);
    const held = strongest.reduce((sum, key) => sum + levels[key], 0);
    const share = total ? `${Math.round((100 * held) / total)}% of the weight` : "no weight";
    const asked = this.rows.rows.length * this.rows.columns.length < h * w ? "; some rows and columns are left out" : "";
    this.facts.textContent =
      `${this.rows.pairwise} · ${size} positions, ${keys} keys${asked} · ` +
      `the ${strongest.length} strongest hold ${share}`;
    const bar = element("i", { className: this.rows.signed ? "bar signed" : "bar" });
    const ends = [this.rows.signed ? `−${short(largest)}` : "0", short(largest)];
    this.scale.replaceChildren(element("span", { textContent: ends[0] }), bar, element("span", { textContent: ends[1] }));
    this.scale.title = "weight f(x_i, x_j) / C(x)";
    const told = `${this.network.name}: the ${strongest.length} strongest keys hold ${share}.`;
    if (!strongest.length) return told;
    const [frame, row, column] = this.rows.place(strongest[0]);
    const sign = negative(strongest[0]) ? "−" : "";
    return `${told} The strongest, ${sign}${short(largest)}, is row ${row}, column ${column} of frame ${this.rows.frames[frame]}.`;
  }
}

function short(weight) {
  return weight !== 0 && (weight < 1e-3 || weight >= 1e4) ? weight.toExponential(1) : String(Number(weight.toPrecision(2)));
}

// A bent arrow, thicker for a larger weight, dashed for a negative one; a ring where a position looks at itself.
function arrow([x0, y0], [x1, y1], size, isNegative) {
  const group = shape("g", { class: isNegative ? "arrow negative" : "arrow" });
  const width = 0.8 + 2.2 * size;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = Math.hypot(dx, dy);
  if (length < 8) {
    for (const kind of ["halo", "line"]) group.append(shape("circle", { class: kind, cx: x1, cy: y1, r: 9, "stroke-width": kind === "halo" ? width + 2 : width }));
    return group;
  }
  const side = dx < 0 ? -1 : 1; // arrows bend upwards
  const bend = Math.min(0.14 * length, 46);
  const [cx, cy] = [x0 + dx / 2 + (side * bend * dy) / length, y0 + dy / 2 - (side * bend * dx) / length];
  const turn = Math.atan2(y1 - cy, x1 - cx);
  const head = 6 + 5 * size;
  const corner = (angle) => `${x1 - head * Math.cos(turn + angle)} ${y1 - head * Math.sin(turn + angle)}`;
  const line = `M${x0} ${y0} Q${cx} ${cy} ${x1 - 0.7 * head * Math.cos(turn)} ${y1 - 0.7 * head * Math.sin(turn)}`;
  group.append(
    shape("path", { class: "halo", d: line, "stroke-width": width + 2 }),
    shape("path", { class: "line", d: line, "stroke-width": width }),
    shape("path", { class: "tip", d: `M${x1} ${y1} L${corner(0.42)} L${corner(-0.42)} Z` }),
  );
  return group;
}
