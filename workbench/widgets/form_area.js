// A text of any length. It is sent when the person leaves it or presses its button, never by the keystroke; of a long one
// the page shows the beginning only, which cannot be edited, for that would lose the rest.

const MOST_BYTES = 8e6; // larger messages can break the connection to the kernel

function textArea(field, key, changed) {
  let shown = "";
  let cut = 0; // characters of the whole text, when the page has its beginning only
  let sending = false;
  let enabled = true;
  const area = make("textarea", { class: "wb-input wb-area", id: key, rows: 6, spellcheck: "false", placeholder: field.placeholder || null });
  const count = make("span", { class: "wb-area-count", role: "status" });
  const use = make("button", { type: "button", class: "wb-button", text: "Use this text", onclick: () => send() });
  const replace = make("button", { type: "button", class: "wb-button", text: "Replace", title: "Empty the field for another text", onclick: () => clear() });
  const node = make("div", { class: "wb-areabox" }, area, make("div", { class: "wb-area-foot" }, count, replace, use));

  const edited = () => !area.readOnly && area.value !== shown;
  const say = () => {
    const tooLong = edited() && new Blob([area.value]).size > MOST_BYTES;
    const whole = area.readOnly ? `the first ${formatCount(area.value.length)} of ${formatCount(cut)} characters are shown; all are used` : area.value.trim() ? plural(area.value.length, "character") : "no text";
    count.textContent = tooLong ? "too long for the page: put it into a file and name that below" : whole + (edited() ? ", not used yet" : "");
    count.dataset.bad = tooLong;
    use.disabled = !enabled || !edited() || tooLong;
    use.hidden = area.readOnly;
    replace.hidden = !area.readOnly;
    return !tooLong;
  };
  const send = () => {
    if (!edited() || !say()) return;
    shown = area.value;
    sending = true;
    say();
    changed(shown);
  };
  const clear = () => {
    area.readOnly = false;
    area.value = "";
    say();
    area.focus();
  };
  const show = (value, length) => {
    if (edited() && area.value !== "" && !sending) return; // what is being typed stays
    sending = false;
    cut = length ?? 0;
    area.value = value;
    shown = area.value; // the page's own line ends
    area.readOnly = cut > 0;
    say();
  };
  area.addEventListener("input", say);
  area.addEventListener("change", send);
  area.addEventListener("blur", () => {
    if (cut && area.value === "") show(shown, cut);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  const enable = (on) => {
    enabled = on;
    area.disabled = replace.disabled = !on;
    say();
  };
  return { node, show, enable };
}
