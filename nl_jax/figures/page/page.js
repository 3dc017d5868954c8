// The page: the place that is asked, the block that is shown, and the mouse, the fingers and the keys that change both.
const data = JSON.parse(document.getElementById("data").textContent);
const panels = data.networks.map((network) => new Panel(network, data));
const [count, heat, state, said] = ["count", "heat", "state", "said"].map((id) => document.getElementById(id));
let place = data.start; // shares of time, height and width, so that networks of other resolutions have it too
let block = data.blocks[0];
let isHeld = false;

function draw() {
  const told = panels.map((panel) => panel.look(place, Number(count.value)));
  const { rows } = panels.find((panel) => panel.rows);
  const { frame, row, column } = rows.nearest(place);
  const time = rows.shape[0] > 1 ? `frame ${rows.frames[frame]}, ` : "";
  const where = `${time}row ${rows.rows[row]}, column ${rows.columns[column]}`;
  state.textContent = where + (isHeld ? ", held" : "");
  return `${where}. ${told.join(" ")}`;
}

function ask(asked) {
  place = asked;
  return draw();
}

function hold(held) {
  isHeld = held;
  document.body.classList.toggle("held", held);
  draw();
}

async function choose(name) {
  block = name;
  document.querySelector(`input[name=block][value="${CSS.escape(name)}"]`).checked = true;
  await Promise.all(panels.map((panel) => panel.show(name)));
  said.textContent = `${name}. ${draw()}`;
}

// One step with the keys, in the panel that has the focus. Beyond a frame's side lies the frame beside it.
function move(key, isWhole) {
  const focused = panels.find((panel) => panel.rows && panel.root.contains(document.activeElement));
  const { rows } = focused ?? panels.find((panel) => panel.rows);
  let { frame, row, column } = rows.nearest(place);
  const frames = rows.shape[0];
  const across = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
  const down = { ArrowUp: -1, ArrowDown: 1 }[key] ?? 0;
  if (isWhole) frame += across;
  else column += across;
  if (column < 0 && frame > 0) [frame, column] = [frame - 1, rows.columns.length - 1];
  if (column >= rows.columns.length && frame < frames - 1) [frame, column] = [frame + 1, 0];
  const within = (at, size) => Math.min(Math.max(at, 0), size - 1);
  frame = within(frame, frames);
  row = within(row + down, rows.rows.length);
  column = within(column, rows.columns.length);
  said.textContent = ask(rows.middle({ frame, row, column }));
}

function placeUnder(event) {
  for (const panel of panels) {
    const found = panel.rows && panel.placeAt(event.clientX, event.clientY);
    if (found) return found;
  }
  return null;
}

const networks = document.getElementById("networks");
networks.append(...panels.map((panel) => panel.root));
networks.classList.toggle("images", !panels[0].isClip());
for (const kind of ["pointerdown", "pointermove"]) {
  networks.addEventListener(kind, (event) => {
    const found = (!isHeld || event.pointerType !== "mouse") && placeUnder(event);
    if (found) ask(found);
  });
}
networks.addEventListener("click", (event) => {
  const found = event.pointerType !== "touch" && placeUnder(event);
  if (!found) return;
  if (isHeld) place = found;
  hold(!isHeld);
});

document.addEventListener("keydown", (event) => {
  const isControl = event.target.closest("input") !== null;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const number = Number(event.key);
  if (event.key.startsWith("Arrow") && !isControl) move(event.key, event.shiftKey);
  else if (event.key === " " && !isControl) hold(!isHeld);
  else if (event.key === "Escape") hold(false);
  else if (event.key.toLowerCase() === "h") heat.click();
  else if (number >= 1 && number <= data.blocks.length) choose(data.blocks[number - 1]);
  else return;
  event.preventDefault();
});

heat.addEventListener("change", () => document.body.classList.toggle("plain", !heat.checked));
count.addEventListener("input", () => {
  document.getElementById("counted").value = count.value;
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

const blocks = document.getElementById("blocks");
data.blocks.forEach((name, index) => {
  const radio = element("input", { type: "radio", name: "block", value: name });
  radio.addEventListener("change", () => choose(name));
  const key = data.blocks.length > 1 && index < 9 ? [element("kbd", { textContent: index + 1 })] : [];
  blocks.append(element("label", {}, radio, element("span", {}, name.replace(/_nonlocal$/, ""), ...key)));
});

await choose(block);
said.textContent = "";
new ResizeObserver(() => {
  for (const panel of panels) panel.arrange();
  draw();
}).observe(networks);
document.body.dataset.ready = "yes";
