// Helpers that stand at the top of every component's module (component.py joins the files; nothing is imported).

const SVG_NS = "http://www.w3.org/2000/svg";

/** Make an element: "svg:" prefix for SVG, "on…" for listeners, "text" for text, attributes for the rest. */
function make(tag, props = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG_NS, tag.slice(4)) : document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The component's outer box; Lab's own shortcuts and its use of the plain arrow keys stay out of it. */
function card(el, name) {
  const root = make("div", { class: `wb ${name}`, "data-lm-suppress-shortcuts": "true" });
  // Some shortcuts (the arrow keys of Notebook 7) mean whatever has the focus, so that has to say it too.
  root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  root.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
  el.append(root);
  return root;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

const onePixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

/** How light a colour of CSS is, from 0 to 1; undefined when it is none, or nearly transparent. */
function lightness(colour) {
  onePixel.clearRect(0, 0, 1, 1);
  onePixel.fillStyle = "transparent"; // stays when the next is no colour
  onePixel.fillStyle = colour;
  onePixel.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = onePixel.getImageData(0, 0, 1, 1).data;
  return a > 127 ? (0.299 * r + 0.587 * g + 0.114 * b) / 255 : undefined;
}

/** Whether a component's ground is dark: the page says so, or it names the colour (theme.css), or it is painted there. */
function isDark(node) {
  const lab = document.body.dataset.jpThemeLight;
  if (lab) return lab === "false";
  let light = lightness(getComputedStyle(node).getPropertyValue("--jp-layout-color1"));
  for (let at = node.parentNode; at && light === undefined; at = at.parentNode ?? at.host) {
    if (at instanceof Element) light = lightness(getComputedStyle(at).backgroundColor);
  }
  if (light !== undefined) return light < 0.5;
  const page = document.documentElement;
  const schemes = getComputedStyle(page).colorScheme.split(" ");
  const asked = matchMedia("(prefers-color-scheme: dark)").matches;
  return page.getAttribute("theme") === "dark" || (schemes.includes("dark") && (asked || !schemes.includes("light")));
}

/** Keep root's data-theme right, call `changed` after each change of theme, and return the way to stop. */
function followTheme(root, changed) {
  let dark = null;
  const check = () => {
    const now = isDark(root);
    root.dataset.theme = now ? "dark" : "light";
    if (now === dark) return;
    dark = now;
    requestAnimationFrame(() => changed(dark));
  };
  const observer = new MutationObserver(check);
  const names = ["class", "style", "theme", "data-jp-theme-light", "data-jp-theme-name", "data-vscode-theme-kind"];
  const options = { attributes: true, attributeFilter: names };
  for (const node of [document.body, document.documentElement]) observer.observe(node, options);
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", check);
  requestAnimationFrame(check);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", check);
  };
}

/** Call `resized` when the element gets another width or is shown again; return the way to stop. */
function followWidth(node, resized) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    const before = last;
    last = width; // 0 while hidden (also for a moment of JupyterLab's change of theme), where nothing can be drawn
    if (width > 0 && width !== before) resized(width);
  });
  observer.observe(node);
  return () => observer.disconnect();
}

/**
 * What a person sets or picks: it goes to the kernel at once, and all components' in the order in which it was done (a
 * synced trait would wait for the one before). Until the newest is answered, what the kernel sends answers older ones.
 */
class Turns {
  constructor(model, settled) {
    this.model = model;
    this.settled = settled;
    this.mine = Math.random().toString(36).slice(2); // another view of the same model has turns of its own
    this.newest = this.answered = 0;
    model.on("msg:custom", (message) => this.receive(message));
  }

  get waiting() {
    return this.answered < this.newest;
  }

  send(content) {
    this.newest += 1;
    this.model.send({ ...content, turn: `${this.mine}-${this.newest}` });
  }

  receive(message) {
    const [view, turn] = message.type === "ack" ? String(message.turn).split("-") : [];
    if (view !== this.mine) return;
    this.answered = Math.max(this.answered, Number(turn));
    if (!this.waiting) this.settled();
  }
}

/** A way to draw that waits while a pointer is pressed in the root: a button that is replaced before its release loses the click. */
function whenReleased(root, draw) {
  let pressed = false;
  let owed = false;
  const release = () => {
    pressed = false;
    if (owed) draw();
    owed = false;
  };
  const later = () => pressed && setTimeout(release); // the click comes right after
  root.addEventListener("pointerdown", () => (pressed = true));
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, later, true);
  const drawn = () => (pressed ? (owed = true) : draw());
  drawn.stop = () => ["pointerup", "pointercancel"].forEach((end) => removeEventListener(end, later, true));
  return drawn;
}

/** Save changes to the kernel at most every `wait` ms: the first at once, together with others of the same moment, and the last state always. */
function lateSaver(model, wait = 60) {
  let timer = null;
  let last = -wait;
  const save = () => {
    timer = null;
    last = performance.now();
    model.save_changes();
  };
  const later = () => (timer ??= setTimeout(save, Math.max(0, last + wait - performance.now())));
  later.flush = () => {
    if (timer === null) return;
    clearTimeout(timer);
    save();
  };
  return later;
}

/** Three significant digits, with a true minus sign. */
function formatNumber(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e6 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replace(/\.?0+e/, "e").replace(/-/g, "−").replace("e+", "e");
}

const formatCount = (value) => Math.round(value).toLocaleString("en-US");

function formatBytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at === 0 ? Math.round(value) : value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0)} ${units[at]}`;
}

const plural = (count, word) => `${formatCount(count)} ${word}${count === 1 ? "" : "s"}`;

/** A round step (1, 2 or 5 times a power of ten) that cuts `span` into at most `most` parts. */
function niceStep(span, most) {
  const raw = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw * 0.999);
}

function linearTicks(low, high, most) {
  const step = niceStep(high - low, most);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

/** Round values between low and high > 0, even on a logarithmic axis. */
function logTicks(low, high, most) {
  const decades = Math.log10(high / low);
  const choices = decades > most ? [[1]] : [[1, 2, 5], [1, 3], [1]];
  const stride = Math.max(1, Math.ceil(decades / most));
  let ticks = [];
  for (const factors of choices) {
    ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      if (factors.length === 1 && p % stride) continue;
      for (const factor of factors) {
        const value = factor * 10 ** p;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    }
    if (ticks.length <= most) break;
  }
  return ticks.length >= 2 ? ticks : [low, high];
}

/** Put a floating box near a point of its container, inside the container's width. */
function placeTip(tip, container, x, y) {
  tip.hidden = false;
  const width = tip.offsetWidth;
  const height = tip.offsetHeight;
  const right = x + 14 + width <= container.clientWidth;
  tip.style.left = `${right ? x + 14 : Math.max(0, x - 14 - width)}px`;
  tip.style.top = `${y - height - 12 < 0 ? y + 16 : y - height - 12}px`;
}
